"""One tiny network in every form that `--model` takes: the means of the channels times `WEIGHTS`.

`expected` gives its logits in NumPy, from the pictures as the network's input format describes them. Each function
writes a file or a folder and imports what it needs, so that a test can skip where that is not installed.
"""
import numpy as np
import torch
from torch import nn

CLASSES = ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt"]  # of the demo set
WEIGHTS = np.random.Generator(np.random.SFC64(7)).normal(size=(8, 3)).astype(np.float32)


def expected(images, weights=WEIGHTS):
    """Logits (N, K) of images (N, C, H, W) in the network's range."""
    return images.astype(np.float64).mean((2, 3)) @ weights.T


class Means(nn.Module):
    """The network in torch."""

    def __init__(self, weights=WEIGHTS):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weights.copy()))

    def forward(self, x):
        return x.float().mean((2, 3)) @ self.weight.T


def write_onnx(path, shape=("N", 3, 32, 32), dtype="float32", softmax=False, metadata=None, weights=WEIGHTS,
               one_by_one=False):
    """As ONNX; of layout nhwc where the last side of the shape is 1 or 3. one_by_one: an operation names a batch of
    one, whatever the shape says."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}[dtype]
    nodes, last = [], "images"
    if dtype == "uint8":
        nodes.append(helper.make_node("Cast", [last], ["floats"], to=TensorProto.FLOAT))
        last = "floats"
    if shape[-1] in (1, 3):
        nodes.append(helper.make_node("Transpose", [last], ["nchw"], perm=[0, 3, 1, 2]))
        last = "nchw"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["pooled"]),
              helper.make_node("Reshape", ["pooled", "one"], ["flat"]) if one_by_one else
              helper.make_node("Flatten", ["pooled"], ["flat"]),
              helper.make_node("Gemm", ["flat", "weights"], ["logits"], transB=1)]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"]))
    channels = shape[-1] if shape[-1] in (1, 3) else shape[1] if isinstance(shape[1], int) else 3
    weights = weights[:, :channels]
    output = "probabilities" if softmax else "logits"
    graph = helper.make_graph(nodes, "means", [helper.make_tensor_value_info("images", kind, list(shape))],
                              [helper.make_tensor_value_info(output, TensorProto.FLOAT, [shape[0], len(weights)])],
                              [numpy_helper.from_array(weights, "weights"),
                               numpy_helper.from_array(np.array([1, channels]), "one")][:1 + one_by_one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    return path


def write_tflite(path, size=32, channels=3, softmax=False, quantised=None, flatten=False, weights=WEIGHTS,
                 quantised_output=None):
    """As TensorFlow Lite. quantised: (scale, zero point) of a uint8 input that the file itself turns into floats; of an
    int8 one where the zero point is negative. quantised_output: of an int8 output.
    flatten: the same means by the layers Flatten and Dense, which take any batch and no other size."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    weights = np.ascontiguousarray(weights[:, :channels])
    if flatten:
        weights = np.tile(weights / size**2, (1, size**2)).astype(np.float32)
    buffers, tensors, operators, codes = [schema.BufferT()], [], [], []

    def tensor(name, shape, kind=schema.TensorType.FLOAT32, data=None, quantisation=None):
        one = schema.TensorT()
        one.name, one.shape, one.type, one.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            buffers.append(buffer)
            one.buffer = len(buffers) - 1
        if quantisation is not None:
            one.quantization = schema.QuantizationParametersT()
            one.quantization.scale, one.quantization.zeroPoint = [quantisation[0]], [quantisation[1]]
        tensors.append(one)
        return len(tensors) - 1

    def operator(code, inputs, outputs, kind=0, options=None):
        entry = schema.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        codes.append(entry)
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs, one.outputs = len(codes) - 1, inputs, outputs
        one.builtinOptionsType, one.builtinOptions = kind, options
        operators.append(one)

    kinds, codes_of, options_of = schema.TensorType, schema.BuiltinOperator, schema.BuiltinOptions
    shape = [1, size, size, channels]
    kind = kinds.FLOAT32
    if quantised:
        kind = kinds.INT8 if quantised[1] < 0 else kinds.UINT8
    first = last = tensor("images", shape, kind, quantisation=quantised)
    if quantised:
        last = tensor("floats", shape)
        operator(codes_of.DEQUANTIZE, [first], [last], options_of.DequantizeOptions, schema.DequantizeOptionsT())
    pooled = tensor("pooled", [1, weights.shape[1]])
    if flatten:
        sides = tensor("sides", [2], kinds.INT32, np.array([-1, weights.shape[1]], np.int32))
        operator(codes_of.RESHAPE, [last, sides], [pooled])
    else:
        axes = tensor("axes", [2], kinds.INT32, np.array([1, 2], np.int32))
        operator(codes_of.MEAN, [last, axes], [pooled], options_of.ReducerOptions, schema.ReducerOptionsT())
    stored = tensor("weights", weights.shape, data=weights)
    last = tensor("logits", [1, len(weights)])
    operator(codes_of.FULLY_CONNECTED, [pooled, stored, -1], [last], options_of.FullyConnectedOptions,
             schema.FullyConnectedOptionsT())
    if softmax:
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        logits, last = last, tensor("probabilities", [1, len(weights)])
        operator(codes_of.SOFTMAX, [logits], [last], options_of.SoftmaxOptions, options)
    if quantised_output:
        floats, last = last, tensor("bytes", [1, len(weights)], kinds.INT8, quantisation=quantised_output)
        operator(codes_of.QUANTIZE, [floats], [last], options_of.QuantizeOptions, schema.QuantizeOptionsT())
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, operators, [first], [last]
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], buffers, codes
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def write_transformers(folder, labels=None, **config):
    """A small network of transformers (not `Means`), with random weights, and its preprocessing: -1..1 at 32 pixels."""
    import transformers

    names = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"] if labels is None else labels
    settings = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=32,
                    patch_size=16, num_labels=len(names), id2label=dict(enumerate(names)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.ViTForImageClassification(transformers.ViTConfig(**settings | config)).eval()
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return network


def write_pt2(path, batch=None, size=32):
    """As a program of torch.export. batch: the number of images that it takes; None: any."""
    images = torch.zeros(batch or 2, 3, size, size)
    shapes = None if batch else ({0: torch.export.Dim("N")},)
    torch.export.save(torch.export.export(Means(), (images,), dynamic_shapes=shapes), path)
    return path


def write_torchscript(path, network=None):
    """As TorchScript."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network or Means(), torch.zeros(2, 3, 32, 32)), path)
    return path
