"""The names of timm's networks, and `no_warnings`, which keeps the warnings of libraries from the terminal."""
import difflib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from support.errors import UserError


@contextmanager
def no_warnings() -> Iterator[None]:
    """Keep warnings that libraries write for their own programmers from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def current_name(name: str) -> str:
    """The name that timm has today for a network. Raises UserError, with similar names, for one that timm does not
    have."""
    import timm
    from timm.models import get_deprecated_models

    if not isinstance(name, str) or re.search(r"[:/\\]", name):
        raise UserError(f"{name!r} is no name of timm's own networks; those of a hub or a folder are not built. "
                        f"--weights PATH takes weights from a file")
    deprecated = get_deprecated_models()
    if name in deprecated:
        if deprecated[name] is None:
            raise UserError(f"timm has no network {name!r} any more, and none in its place")
        name = deprecated[name]
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture) or architecture in deprecated:
        close = timm.list_models(f"*{architecture.lower()}*")[:5] if re.fullmatch(r"\w+", architecture) else []
        close = close or difflib.get_close_matches(architecture.lower(), timm.list_models(), 5)
        raise UserError(f"timm has no network {name[:100]!r} ({', '.join(close) or 'timm.list_models() knows all'})")
    if dot and name not in timm.list_models(architecture, include_tags=True):
        tags = ", ".join(timm.list_models(f"{architecture}.*", include_tags=True)) or "it has none"
        raise UserError(f"timm has no weights {tag[:100]!r} for its network {architecture} ({tags})")
    return name
