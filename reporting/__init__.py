"""Floor 5: what report.py consists of. It reads runs and their scores, and writes tables, figures and one page. Nothing
here changes a run or imports torch."""
