"""Random generators that do not depend on the order of work, the number of workers or the machine.

Every purpose has a stream of its own. For example, the snow on one image of a FER-C set is drawn from the stream with
the key (seed, image id, "snow", severity). So a set of corrupted images has the same bytes however many processes build
it and however often they are interrupted. The caller gives the parts of the key. Another key gives other numbers: a
changed key in building/forms.py, for example, changes all images for which something is drawn.
"""
import hashlib

import numpy as np


def keyed_rng(*key: object) -> np.random.Generator:
    """The generator of a key. Equal keys give equal streams, in any process and in any order.

    key: the parts of the key; their texts (`str`) count. The seed of the generator (SFC64) is the SHA-256 of the texts,
    joined by the character 0x1f."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))
