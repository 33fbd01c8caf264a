"""Open-set FER: what train_openset.py calls besides training/run.py.

  stages.py    the trainings: of the closed model, and of detectors
  inference.py what trained networks compute for the images of all splits and for the cells of a built set
  run.py       a run after its closed training: pools, and the scores of detectors
  files.py     what lies in a run's folder besides the closed training: pseudo labels, open scores; without torch
  scores.py    from open scores to open_scores.csv; without torch

datasets/open_classes.py has the protocol (open classes, pools, halves, pseudo labels), open_set.py the mathematics.
"""
