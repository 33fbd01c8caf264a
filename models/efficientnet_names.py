"""Names of EfficientNet's tensors in other people's files, as timm has them.

EfficientNet-PyTorch (github.com/lukemelas/EfficientNet-PyTorch), from which many projects start, counts the blocks from
the first to the last, `_blocks.7._expand_conv`; timm counts them by stage, `blocks.3.1.conv_pw`.
"""
import re
from collections.abc import Iterable

PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# A block that first has a 1x1 convolution to more channels, and one that has not.
EXPANDING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3"}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
         "_project_conv": "conv_pw", "_bn2": "bn2"}


def block_names(own: Iterable[str]) -> list[str]:
    """The blocks of a network of timm, blocks.<stage>.<number>, in their order. own: the names of its tensors."""
    matches = [re.match(r"blocks\.\d+\.\d+(?=\.)", name) for name in own]
    return list(dict.fromkeys(match[0] for match in matches if match))


def timm_name(name: str, own: Iterable[str]) -> str | None:
    """timm's name of a tensor that EfficientNet-PyTorch calls `name`; None where it has no such name.

    own: the names of the tensors of timm's network, in their order."""
    names = list(own)
    match = re.fullmatch(r"_blocks\.(\d{1,3})\.(_\w+)\.(\w+)", name)
    if match is None:
        part, dot, last = name.partition(".")
        return f"{PARTS[part]}.{last}" if dot and part in PARTS and "conv_stem.weight" in names else None
    blocks = block_names(names)
    number = int(match[1])
    if number >= len(blocks):
        return None
    parts = EXPANDING if f"{blocks[number]}.conv_pwl.weight" in names else PLAIN
    return f"{blocks[number]}.{parts[match[2]]}.{match[3]}" if match[2] in parts else None
