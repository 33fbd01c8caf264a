"""Floor 5: what report.py consists of. These modules read runs and their scores, and write tables, figures and one
page. Nothing here changes a run or imports torch."""
