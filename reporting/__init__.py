"""What report.py is made of: runs and their scores, tables, figures. Only reads; never imports torch."""
