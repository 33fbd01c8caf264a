"""Floor 4: the kinds of models that are no runs. Each file reads one kind and says where layout, size and classes come
from.

  source.py                what a kind gives: a `Source`
  timm_network.py          timm:NAME
  onnx_file.py             FILE.onnx
  tflite_file.py           FILE.tflite
  transformers_folder.py   hf:FOLDER
  exported_program.py      FILE.pt2
  torchscript_file.py      FILE.torchscript
  factory.py               MODULE:FUNCTION and FILE.py:FUNCTION, in a process of their own
  caller.py                a model given to `benchmark`, in the process of its caller

sources.py makes a `LoadedModel` of any of them. Runs are read in sources.py, logits:PATH in logits_source.py.
"""
