"""The command line of every script: a dataclass of options becomes options that are typed, checked and explained.

A script declares a dataclass `Args`. Each field is an option: `batch_size: int = 256` becomes `--batch-size`, and the
string below the field is its help text. A field whose type is another dataclass is a group of options; its docstring is
the title of the group. tyro parses the arguments (https://brentyi.github.io/tyro). The scripts call `run(main, Args)`;
those that train call `read_options` before they import torch, and `call` at their end.

What this file adds to tyro is declared at the field, in `Annotated[type, ...]`:

    epochs: Annotated[int, Between(1)] = 20            a number below 1 ends in one line that names --epochs
    dataset: Annotated[str, OneOf(DATASETS)]           any other value ends in one line; the help lists the values
    pools: Annotated[tuple[str, ...], OneOf(POOLS)]    the same for each of several values
    keep_last: Annotated[bool, Rare] = False           not in --help, only in --help-all
    loss: Annotated[Loss, Rare] = field(default_factory=Loss)      the same for all options of a group

`--help` shows what one usually sets, `--help-all` everything. The defaults they show are those of the chosen data set
where the other arguments name one (`--dataset rafdb --help`). A default that is None, an empty tuple or that of a flag
is not shown, nor is that of an option whose help text contains the word "default": such a text has to state the default
itself, for example what None means.
"""
import ast
import dataclasses
import inspect
import math
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from support.errors import UserError, spell_os_error

OptionsT = TypeVar("OptionsT")

TYRO_SETTINGS = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
HELP_FLAGS = ("-h", "--help", "--help-all")
WIDTH = 79  # columns of a help page
TEXT_COLUMN = 22  # where the help texts begin


class RareMarker:
    """The type of `Rare`, which marks a field whose option only --help-all shows."""

    def __repr__(self) -> str:
        return "Rare"


Rare = RareMarker()


@dataclass(frozen=True)
class Between:
    """The range of a numeric option: `Annotated[float, Between(0, 1)]` at its field."""

    low: float
    high: float = math.inf  # still allowed
    above: bool = False  # whether `low` itself is refused

    def __str__(self) -> str:
        start = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return start if math.isinf(self.high) else f"{start} and at most {self.high:g}"

    def holds(self, value: float) -> bool:
        """Whether the range holds a number."""
        if self.above and value == self.low:
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True, init=False)
class OneOf:
    """The values of a text option, where a `Literal` cannot be written out: `Annotated[str, OneOf(TABLE)]`."""

    values: tuple[str, ...]

    def __init__(self, values: Iterable[str]) -> None:
        object.__setattr__(self, "values", tuple(values))


Fraction = Annotated[float, Between(0, 1)]


@dataclass(frozen=True)
class Option:
    """What a dataclass of options declares about one option."""

    name: str  # of its field
    kind: Any  # the type of its value, without `Annotated` and without `None`
    marks: tuple[Any, ...]  # what `Annotated` says about it, or about a group that it is in
    group: str  # the title of its group, "" outside groups
    text: str  # its help text
    value: Any  # its default; dataclasses.MISSING where it has to be given

    @property
    def flag(self) -> str:
        """As it is typed: --batch-size."""
        return flag_of(self.name)

    @property
    def is_rare(self) -> bool:
        return Rare in self.marks

    @property
    def is_required(self) -> bool:
        return self.value is dataclasses.MISSING

    @property
    def is_positional(self) -> bool:
        return tyro.conf.Positional in self.marks


# ---- reading the command line

def run(main: Callable[[Any], int | None], Args: type, fill_defaults: Callable[[Any], Any] | None = None) -> None:
    """Read the command line, call `main` with it, and end with an exit code, as `call` says. fill_defaults: see
    `parse`."""
    call(main, read_options(Args, fill_defaults))


def read_options(Args: type[OptionsT], fill_defaults: Callable[[OptionsT], OptionsT] | None = None,
                 check: Callable[[OptionsT], Any] | None = None) -> OptionsT:
    """`parse` and then `check`, which raises UserError for invalid values. An error ends the process, as `call` says.

    For a script that reads its options before it imports what takes seconds; it hands them to `call` at its end."""
    with errors_as_exit_codes():
        args = parse(Args, fill_defaults)
        if check is not None:
            check(args)
        return args


def call(main: Callable[[OptionsT], int | None], args: OptionsT) -> None:
    """Call `main` with the options, and end with an exit code.

    The code is what `main` returns (None is 0), 1 if the reader of a pipe has closed it (`... | head`), 2 after a
    `UserError` or an error of the file system (one line, no traceback), 130 after Ctrl-C."""
    with errors_as_exit_codes():
        sys.exit(main(args))


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Errors in the block that a user can understand end the process with the exit codes that `call` lists."""
    try:
        yield
        return
    except UserError as error:
        print_error(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        print_error("interrupted; start the same command again")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        print_error(f"error: {spell_os_error(error)}")
        code = 2
    sys.exit(code)


def print_error(line: str) -> None:
    """Print a line on standard error, if the shell has not closed that (`2>&-`): `print` would take standard output."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def parse(Args: type[OptionsT], fill_defaults: Callable[[OptionsT], OptionsT] | None = None,
          argv: Sequence[str] | None = None) -> OptionsT:
    """The command line as an `Args`. If the command line asks for help, prints the help page and ends the process.

    fill_defaults: gives the defaults that depend on other options (on the data set or the protocol). The command line
    is parsed twice: `fill_defaults` gets the result of the first parse and returns the defaults for the second one. So
    an option that is given on the command line always counts.
    argv: the arguments (default: those of this process)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in HELP_FLAGS for word in words):
        print(help_page(Args, defaults_for_help(Args, fill_defaults, words), "--help-all" in words))
        sys.exit(0)
    args = tyro.cli(Args, args=words, config=TYRO_SETTINGS)
    if fill_defaults is None:
        return args
    return tyro.cli(Args, args=words, config=TYRO_SETTINGS, default=fill_defaults(args))


def defaults_for_help(Args: type[OptionsT], fill_defaults: Callable[[OptionsT], OptionsT] | None,
                      words: Sequence[str]) -> OptionsT | None:
    """The defaults to show on a help page. None if the other arguments do not make a complete command."""
    if fill_defaults is None:
        return None
    rest = [word for word in words if word not in HELP_FLAGS]
    try:
        return fill_defaults(tyro.cli(Args, args=rest, config=TYRO_SETTINGS, console_outputs=False))
    except (SystemExit, UserError):
        return None


# ---- what the fields declare

def check_values(args: Any) -> None:
    """Raises UserError where a number in a dataclass of options (groups of options included) is NaN or infinite, or a
    value is not one that its field declares with `Between` or `OneOf`."""
    for option in declared_options(type(args), args):
        value = option.value
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isfinite(value):
            raise UserError(f"{option.flag} has to be a finite number, not {value}")
        for mark in option.marks:
            if isinstance(mark, Between) and value is not None and not mark.holds(value):
                raise UserError(f"{option.flag} has to be {mark}, not {value:g}")
            if isinstance(mark, OneOf) and value is not None:
                check_choice(option.flag, value, mark)


def check_choice(flag: str, value: Any, mark: OneOf) -> None:
    """Raises UserError where a value is not one of those that are declared; of several values each has to be, and at
    least one is needed. flag: of the option."""
    values = value if isinstance(value, tuple) else (value,)
    unknown = [text for text in values if text not in mark.values]
    if unknown or not values:
        given = repr(unknown[0]) if unknown else "empty"
        raise UserError(f"{flag} has to be one of {', '.join(mark.values)}, not {given}")


def ranges_of(hint: Any) -> list[Between]:
    """Every `Between` in an annotation, also inside `X | None`."""
    return [mark for mark in without_annotations(hint)[1] if isinstance(mark, Between)]


def declared_options(Args: Any, args: Any = None, group: str = "", marks: tuple[Any, ...] = ()) -> list[Option]:
    """The options that a dataclass declares, those of its groups included, in the order of the fields.

    args: an `Args` whose values the options carry, in place of the defaults.
    group, marks: the title of the group that `Args` is, and what is declared about the whole group."""
    hints = get_type_hints(Args, include_extras=True)
    texts = help_texts(Args)
    options = []
    for field in dataclasses.fields(Args):
        kind, own_marks = without_annotations(hints[field.name])
        value = default_of(field) if args is None else getattr(args, field.name)
        if dataclasses.is_dataclass(kind):
            values = None if value is dataclasses.MISSING else value
            options += declared_options(kind, values, inspect.getdoc(kind) or field.name, marks + own_marks)
        else:
            options.append(Option(field.name, kind, marks + own_marks, group, texts.get(field.name, ""), value))
    return options


def without_annotations(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without `Annotated` and `| None`, and everything that `Annotated` says about it."""
    if get_origin(hint) is Annotated:
        inner, *own_marks = get_args(hint)
        kind, marks = without_annotations(inner)
        return kind, (*marks, *own_marks)
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        if len(kinds) == 1:
            return without_annotations(kinds[0])
    return hint, ()


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field, dataclasses.MISSING where it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def help_texts(Args: type) -> dict[str, str]:
    """{field: the string below it} in the source of a dataclass and of those that it inherits from."""
    texts: dict[str, str] = {}
    for kind in reversed(Args.__mro__):
        if dataclasses.is_dataclass(kind):
            texts.update(own_help_texts(kind))
    return texts


def own_help_texts(Args: type) -> dict[str, str]:
    """{field: the string below it} in the source of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Args)))
    texts = {}
    body = tree.body[0].body  # type: ignore[attr-defined]  # the only statement is the class
    for statement, following in zip(body, body[1:], strict=False):
        is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if is_field and is_text:
            texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts


# ---- the help page

def help_page(Args: type, args: Any = None, everything: bool = False) -> str:
    """What `--help` prints, or `--help-all` where `everything`. args: an `Args` that holds the defaults to show."""
    options = declared_options(Args)
    if args is not None:
        values = {option.name: option.value for option in declared_options(Args, args)}
        options = [option if option.is_required else dataclasses.replace(option, value=values[option.name])
                   for option in options]
    rare = sum(option.is_rare for option in options)
    shown = [option for option in options if everything or not option.is_rare]
    description = inspect.getdoc(sys.modules[Args.__module__]) or ""
    lines = [*usage(Args, options), ""]
    lines += description_lines(description, everything or not rare)
    group = None
    for option in shown:
        if option.group != group:
            group = option.group
            lines += ["", *textwrap.wrap(group or "Options", WIDTH)]
        lines += option_lines(option)
    if rare and not everything:
        lines += ["", f"--help-all shows {rare} more options."]
    return "\n".join(lines)


def usage(Args: type, options: Sequence[Option]) -> list[str]:
    """The first lines of a help page: the command with the options that have to be given.

    Where this would mislead, the script says in a constant USAGE what follows its name: one line for each form of the
    command (see sweep.py)."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    command = f"python -m {module.name}" if module else f"python {sys.argv[0]}"
    words = []
    for option in options:
        if option.is_positional:
            words.append(invocation(option))
        elif option.is_required:
            words.append(f"{option.flag} {option.name.upper()}")
    usual_form = " ".join([*words, "[options]"])
    first, *others = getattr(sys.modules[Args.__module__], "USAGE", (usual_form,))
    return [f"usage: {command} {first}", *(f"       {command} {form}" for form in others)]


def description_lines(text: str, everything: bool) -> list[str]:
    """The docstring of a script in lines of at most `WIDTH` columns: all of it, or its first paragraph and the
    examples.

    A paragraph holds prose, items of a list and examples. An item begins with "- ", and its further lines are indented.
    Other indented lines are examples: a command and, behind two spaces or more, a remark. The remark may go on in
    lines that are indented further than the command."""
    lines: list[str] = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        printed: list[str] = []
        for part in parts_of(paragraph):
            if part[0].startswith(" "):
                printed += example_lines(part)
            elif everything or number == 0:
                indent = "  " if part[0].startswith("- ") else ""
                printed += textwrap.wrap(" ".join(line.strip() for line in part), WIDTH, subsequent_indent=indent,
                                         break_on_hyphens=False)
        if lines and printed:
            lines.append("")
        lines += printed
    return lines


def parts_of(paragraph: str) -> list[list[str]]:
    """A paragraph of a docstring as parts, each a list of lines: prose, an item of a list, or an example."""
    parts: list[list[str]] = []
    for line in paragraph.splitlines():
        if parts and goes_on(parts[-1][0], line):
            parts[-1].append(line)
        else:
            parts.append([line])
    return parts


def goes_on(first: str, line: str) -> bool:
    """Whether a line belongs to the same part as the first line of that part."""
    if line.startswith("- "):
        return False
    if first.startswith((" ", "- ")):
        return indentation(line) > indentation(first)
    return indentation(line) == 0


def indentation(line: str) -> int:
    """The number of spaces that a line begins with."""
    return len(line) - len(line.lstrip(" "))


def example_lines(part: Sequence[str]) -> list[str]:
    """An example on a help page, as a shell accepts it: the remark follows a "#", and a command of several lines
    has a backslash at the end of all but the last."""
    command, *remarks = re.split(r"\s{2,}(?:#\s+)?|\s+#\s+", part[0].strip(), maxsplit=1)
    remark = " ".join(" ".join([*remarks, *part[1:]]).split())
    whole = f"  {command}   # {remark}" if remark else f"  {command}"
    if len(whole) <= WIDTH:
        return [whole]
    *most, last = textwrap.wrap(command, WIDTH - 2, initial_indent="  ", subsequent_indent="    ",
                                break_on_hyphens=False)
    mark = 6 * " " + "# "
    return [*(f"{line} \\" for line in most), last,
            *textwrap.wrap(remark, WIDTH, initial_indent=mark, subsequent_indent=mark, break_on_hyphens=False)]


def option_lines(option: Option) -> list[str]:
    """An option on a help page: how it is typed, and its text beside that or, where that is long, below."""
    start = f"  {invocation(option)}"
    text = textwrap.wrap(with_default(option), WIDTH - TEXT_COLUMN, break_on_hyphens=False)
    if len(start) > TEXT_COLUMN - 2 or not text:
        return [start, *(TEXT_COLUMN * " " + line for line in text)]
    return [start.ljust(TEXT_COLUMN) + text[0], *(TEXT_COLUMN * " " + line for line in text[1:])]


def invocation(option: Option) -> str:
    """How an option is typed, with a word for its value: `--epochs INT`, `--fresh`, `--no-images`."""
    if option.is_positional:
        return option.name.upper() if option.is_required else f"[{option.name.upper()}]"
    if option.kind is bool:
        return f"--no-{option.flag[2:]}" if option.value is True else option.flag
    for mark in option.marks:
        if isinstance(mark, OneOf):
            return f"{option.flag} {{{','.join(mark.values)}}}"
    return f"{option.flag} {value_word(option.kind)}"


def value_word(kind: Any) -> str:
    """What a help page writes for a value of a type: {png,jpg}, PATH, INT, FLOAT or TEXT."""
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    if get_origin(kind) is tuple:
        return value_word(get_args(kind)[0])
    return {int: "INT", float: "FLOAT", Path: "PATH"}.get(kind, "TEXT")


def with_default(option: Option) -> str:
    """The text of an option and its default, once."""
    if option.is_required:
        return option.text if option.is_positional else f"{option.text} (required)"
    if option.value is None or option.value == () or isinstance(option.value, bool) or "default" in option.text:
        return option.text
    if isinstance(option.value, tuple):
        default = f"default: {shlex.join(map(str, option.value))}"
    elif isinstance(option.value, float):
        default = f"default: {option.value:g}"
    else:
        default = f"default: {option.value}"
    if option.text.endswith(")"):
        return f"{option.text[:-1]}; {default})"
    return f"{option.text} ({default})"


# ---- writing a command line

def command_line(script: str, options: Any, usual: Any, always: Sequence[str] = ()) -> list[str]:
    """The words of the command that gives `options` to a script: only what differs from `usual`, another value of the
    same dataclass, and the fields in `always`. `shlex.join` makes a line for a shell of them.

    An option that is repeated on the command line adds to its default: of its values, those that `usual` holds are left
    out. Raises ValueError where an option is None that has a value in `usual`: None cannot be written on a command
    line."""
    words = [script]
    usual_values = {option.name: option.value for option in declared_options(type(usual), usual)}
    for option in declared_options(type(options), options):
        usual_value = usual_values[option.name]
        if option.value != usual_value or option.name in always:
            words += option_words(option, usual_value)
    return words


def option_words(option: Option, usual_value: Any) -> list[str]:
    """The words that give an option its value, where it would have `usual_value` without them."""
    if option.value is None:
        raise ValueError(f"no word of a command line sets {option.flag} to nothing")
    if isinstance(option.value, tuple) and tyro.conf.UseAppendAction in option.marks:
        words = []
        for value in option.value:
            if value not in usual_value:
                words += value_words(option.name, value)
        return words
    if isinstance(option.value, tuple):
        texts = [str(value) for value in option.value]
        return texts if option.is_positional else [option.flag, *texts]
    if option.is_positional:
        return [str(option.value)]
    return value_words(option.name, option.value)


def value_words(name: str, value: Any) -> list[str]:
    """The words that give an option one value: ["--epochs", "5"], or ["--no-images"] for False. name: of its field."""
    if isinstance(value, bool):
        return [flag_of(name) if value else f"--no-{flag_of(name)[2:]}"]
    return [flag_of(name), str(value)]


def flag_of(name: str) -> str:
    """An option as it is typed: "--batch-size" for the field batch_size."""
    return f"--{name.rstrip('_').replace('_', '-')}"  # from_ is --from, a word of Python's
