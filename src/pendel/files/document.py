"""The one reader of text files: encodings, line ends, stray marks, and files that are something else."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

import gemmi

from pendel.base import InputError

LARGEST = 300_000_000  # bytes; the parsed text needs several times as much memory
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_AS_ASCII = {0xA0: " ", 0xFEFF: " ", 0x200B: " ", 0x2009: " ", 0x2212: "-", 0x2010: "-", 0x2011: "-", 0x2013: "-"}
_KINDS = (
    (rb"\s*version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with `git lfs pull`"),
    (rb"\x1f\x8b|BZh|PK\x03\x04|\xfd7zXZ|7z\xbc\xaf", "a compressed file", "unpack it first"),
    (rb"\x89HDF", "an HDF5 file", ""),
    (rb"%PDF", "a PDF document", ""),
    (rb"\s*<(!DOCTYPE|html|HTML|\?xml)", "a web page or XML file", "download the file itself"),
    (rb"\s*[{\[]\s*[\"{\[]", "a JSON file", ""),
    (rb"(HEADER|CRYST1|REMARK|ATOM  |HETATM)[ \d]", "a PDB file", ""),
    (rb"( *-?\d+){3}( +-?[\d.]+){2}[^\n]*\n( *-?\d+){3}( +-?[\d.]+){2}", "a bare list of reflections (.hkl)", ""),
)
_SHELX = (
    rb"(?i)(.*\n){0,3}(TITL|CELL +\d+\.\d+( +[\d.]+){6})\b",
    "a SHELX instruction file",
    "",
)
_CIF = (rb"(\s|#[^\n]*\n)*data_\S*\s", "a CIF", "give it a name that ends with .cif")


@dataclass(frozen=True)
class CifFile:
    """A parsed CIF with its text, whose lines the parser's line numbers count, and notes on what was mended."""

    document: gemmi.cif.Document
    text: str
    notes: tuple[str, ...]


def read_cif(path: Path, wanted: str, give: str) -> CifFile:
    """Read a CIF of any encoding, with any line ends; items may be repeated or lack a value.

    Args:
        wanted: what the file should be, for messages, e.g. "a CIF file".
        give: what to do about a file of another kind, for messages.

    Raises InputError for a file that is missing, unreadable, something else, or no correct CIF.
    """
    content = _content(path, wanted)
    notes: list[str] = []
    text = _decoded(content, path.name, notes)
    try:
        document = _parsed(text, path.name, notes)
    except (ValueError, RuntimeError) as error:
        _refuse_others(content, path.name, (*_KINDS, _SHELX), wanted, give)
        position = " ".join(str(error).removeprefix("string:").split())
        raise InputError(
            found=f"the file {path.name} is not a CIF (line {position})",
            expected=wanted,
            do="correct that line, or check that the file is complete",
        ) from error
    return CifFile(document, text, tuple(notes))


def read_text(path: Path, wanted: str, give: str) -> tuple[str, list[str]]:
    """The text of a file that is no CIF, in any encoding and with any line ends, and notes on what was mended.

    Arguments as of `read_cif`. Raises InputError for a file that is missing, unreadable or something else.
    """
    content = _content(path, wanted)
    _refuse_others(content, path.name, (*_KINDS, _CIF), wanted, give)
    notes: list[str] = []
    return _decoded(content, path.name, notes), notes


def find_block(document: gemmi.cif.Document, name: str, path: Path) -> gemmi.cif.Block:
    """The data block with a name, or, where no block has it, the block with that number, counted from 1.

    Raises InputError when there is none, or when several blocks have the name.
    """
    blocks = list(document)
    found = [block for block in blocks if block.name.lower() == name.lower().removeprefix("data_")]
    if not found and name.isdecimal() and 1 <= int(name) <= len(blocks):
        found = [blocks[int(name) - 1]]
    if len(found) == 1:
        return found[0]
    names = ", ".join(block.name for block in blocks[:20]) or "none: the file is empty"
    raise InputError(
        found=f"{f'{len(found)} blocks' if found else 'no block'} {name} in {path.name}",
        expected=f"one of {names}, or its number from 1 to {len(blocks)}",
        do="correct the name of the block (--block)",
    )


def _refuse_others(
    content: bytes, name: str, kinds: tuple[tuple[bytes, str, str], ...], wanted: str, give: str
) -> None:
    for start, what, do in kinds:
        if re.match(start, content):
            raise InputError(found=f"{name} is {what}", expected=wanted, do=do or give)


def _content(path: Path, wanted: str) -> bytes:
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no file {path}"
        raise InputError(found=what, expected=wanted, do="check the path")
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(
                found=f"{path.name} has {path.stat().st_size / 1e6:.0f} MB",
                expected=f"{wanted} of at most {LARGEST / 1e6:.0f} MB",
                do="check that this is the right file",
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            found=f"the file {path} cannot be read ({error.strerror})", expected=wanted, do="check its permissions"
        ) from error


def _decoded(content: bytes, name: str, notes: list[str]) -> str:
    """The text with line ends of Unix and without the end-of-file mark of DOS."""
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError:
        notes.append(f"{name}: the text is not UTF-8; it is read as Latin-1")
        text = content.decode("latin-1")
    text = text.translate(_AS_ASCII).replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x1a\x00\s]+\Z", "\n", text)


def _parsed(text: str, name: str, notes: list[str]) -> gemmi.cif.Document:
    """The document; characters that a bare word of a CIF cannot have are forgiven with a note."""
    try:
        return gemmi.cif.read_string(text, 0)
    except (ValueError, RuntimeError):
        plain = re.sub(r"[^\x20-\x7e\n\t]", "?", text)
        if plain == text:
            raise
        document = gemmi.cif.read_string(plain, 0)
        notes.append(f"{name}: letters beyond ASCII stand in words without quotes; each is read as a question mark")
        return document
