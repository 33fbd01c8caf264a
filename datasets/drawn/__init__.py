"""Floor 1: drawn faces (faces.py), and the official layouts of other data sets filled with them (layouts.py)."""
