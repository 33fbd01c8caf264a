"""Floor 4: predictions and scores of a trained model on a built set.

In the order in which evaluate.py uses them:

  trained_run.py   what args.json of a run says about its model (no torch)
  matching.py      which built sets are scored, and whether they fit the model (no torch)
  sources.py       the network with its trained weights
  inference.py     logits of the network for the images of a set, by block of source images
  predictions.py   the store of logits, finished and by block: the subfolder predictions/ of a run (no torch)
  scores.py        scores from stored logits (no torch)
  scores_file.py   scores.csv: reading it, and replacing the rows of one set (no torch)
  summary.py       the few lines that are printed about the scores of a set (no torch)
  scoring.py       puts these together: from a model and its sets to scores.csv
"""
