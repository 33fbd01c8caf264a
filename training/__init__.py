"""Floor 4: training a network.

  options.py       the options that all scripts have in common, and the recipe of a run (no torch)
  run.py           `start_training` and `Training`, which a script's loop talks to
  state.py         what last.pt holds
  folder.py        a run's folder: found, locked, and compared with what was asked for
  data.py          training and validation data, and which images are in which batch
  image_caches.py  where decoded images are kept: in which folder, on the host or on the device
  log.py           the terms of the steps, TensorBoard, and Weights & Biases
  requests.py      requests to the loop: to write a checkpoint, to stop
  processes.py     what several processes do together
  open_set/        the trainings of open-set FER
"""
