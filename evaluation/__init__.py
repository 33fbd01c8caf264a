"""Floor 4: predictions and scores of a model on a built set.

In the order in which evaluate.py uses them:

  scoring_options.py  options of evaluate.py: classes that do not match, the check, the card (no torch)
  trained_run.py      what args.json of a run says about its model (no torch)
  matching.py         which built sets are scored, and whether they fit the model: class_matching.py compares the names
                      of classes (no torch)
  sources.py          the network with its trained weights, of a run or of any other kind of model:
                      model_options.py (the options that name it), source_kinds/ (a file for each kind),
                      input_format.py (what it takes), network_input.py (pictures -> what it takes),
                      model_facts.py (what is known)
  benchmark.py        models in another process: `benchmark` for Python, and the functions of users
  export_ids.py       which images are to be predicted elsewhere (no torch)
  logits_source.py    predictions made elsewhere (no torch)
  model_folder.py     the folder of a model that is no run, and its model.json (no torch)
  input_check.py      the check of the input: is a model read as it was trained? (no torch)
                      input_check_images.py: which clean images it looks at (no torch)
  inference.py        logits of the network for the images of a set, by block of source images
  predictions.py      the store of logits, finished and by block: the subfolder predictions/ of a run (no torch)
  scores.py           scores from stored logits (no torch); sequence_scores.py: those on perturbation sequences
  validation.py       logits of validation images, and the temperature that fits them, for perturbation sequences
  scores_file.py      scores.csv: reading it, and replacing the rows of one set (no torch)
  summary.py          the few lines that are printed about the scores of a set (no torch)
  scoring.py          puts these together: from a model and its sets to scores.csv
  image_scores.py     the scores of every image, against every kind of label (no torch)
  error_bootstrap.py  how much errors would vary with other test images (no torch)
  cards.py            a card: the result of one model on one set, a small JSON file (no torch)
  model_scoring.py    scoring.py for models that are no runs, and the check and the card of all models
  onnx_export.py      a run's network as an ONNX file; onnx_metadata.py: what such a file says about itself
"""
