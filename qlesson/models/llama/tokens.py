"""A model's tokenizer: from the tokens and merges in its file, or the tokenizer.json beside it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from qlesson import checks
from qlesson.files import written
from qlesson.files.formats.from_llama import LLAMA_3

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens as ggml counts them; 1 is an ordinary one
# Where a text is cut before anything is merged, by the name that files give it.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CUTS = {"smollm": (r"\p{N}", WORDS), "gpt-2": (WORDS,), "llama-bpe": (LLAMA_3,)}
TEXT = "\ue000"  # stands in a chat's template for the text
INSTEAD = "Use tokenizer.encode(text, special=True)."


class Tokenizer:
    """Text to ids and back: bytes, of which pairs are merged (Sennrich et al. 2016).

    merging   a Tokenizer of the library tokenizers; `of_merges` and `of_json` make it
    size      of the vocabulary: ids are below
    control   {token: id}, such as the end of an answer: read only where `special` asks for it, so
              that no text can pretend to be one
    named     {token: id} of those that are always read as one
    template  of a chat, in Jinja; None where there is none
    names     what else the template knows, such as {"bos_token": "<s>"}
    later     as merging, for what follows a special token; None where it is the same
    patterns  {token: regular expression} of those that take spaces beside them along
    """

    def __init__(
        self,
        merging: Any,
        size: int,
        control: Mapping[str, int],
        named: Mapping[str, int],
        template: str | None = None,
        names: Mapping[str, str] | None = None,
        later: Any = None,
        patterns: Mapping[str, str] | None = None,
    ) -> None:
        self.template, self.names = template, dict(names or {})
        self.control, self.named = dict(control), dict(named)
        self._size, self._merging, self._later = size, merging, later or merging
        self._patterns = dict(patterns or {})
        specials = (self.control | self.named) if _by_bytes(merging) else {}
        self._texts = {i: text for text, i in specials.items()}

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text, none for an empty one.

        special  read "<|im_end|>" and the like as the control tokens that they name; else they are
                 text like any other
        """
        checks.of_type("text", text, str, "pass text")
        checks.one_of("special", special, (True, False))
        refuse_halves(text)
        return self._encode(text, self.named | (self.control if special else {}))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, control tokens by their names; bytes that are no text become �."""
        if isinstance(ids, str) or not hasattr(ids, "__iter__"):
            raise TypeError(f"ids must be a list of ids, got {checks.shown(ids)}: use [id].")
        listed = [checks.whole("ids", i, 0, self._size - 1) for i in ids]
        texts: list[str] = []
        for special, some in groupby(listed, self._texts.__contains__):
            if special:  # a text, and no letters that stand for bytes
                texts += map(self._texts.__getitem__, some)
            else:
                texts.append(self._merging.decode(list(some), skip_special_tokens=False))
        return "".join(texts)

    def chat(self, text: str) -> list[int]:
        """The ids of a conversation that begins with this text and waits for the answer.

        Control tokens are those of the template; the text cannot add any. Raises ValueError where
        the template makes anything of the text but the text itself, with or without the spaces
        around it.
        """
        checks.text("text", text)
        refuse_halves(text)
        ids: list[int] = []
        specials = self.named | self.control
        around, text = self._conversation(text)
        for piece in self._pieces(around, specials):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._encode(piece.replace(TEXT, text), self.named, first=not ids)
        return ids

    def _encode(self, text: str, specials: Mapping[str, int], first: bool = True) -> list[int]:
        """first  whether the text begins here, where some tokenizers put a space before it."""
        ids: list[int] = []
        for piece in self._pieces(text, specials):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                merging = self._merging if first else self._later
                merged = merging.encode(piece, add_special_tokens=False).ids
                ids += [i for i in merged if i < self._size]
            first = False
        return ids

    def _pieces(self, text: str, specials: Mapping[str, int]) -> list[str | int]:
        """The text, cut before and after each of the specials, and ids in their places."""
        longest_first = sorted(specials, key=len, reverse=True)
        patterns = [self._patterns.get(x, re.escape(x)) for x in longest_first]
        cut = re.split(f"({'|'.join(patterns)})", text) if patterns else [text]
        return [specials.get(x, specials.get(x.strip(), x)) for x in cut if x]

    def _conversation(self, text: str) -> tuple[str, str]:
        """What the template writes, with TEXT in the place of the text; and the text it takes."""
        if self.template is None:
            raise ValueError("The file has no template of a chat: use tokenizer.encode(text).")
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # here: it takes a while

        more = ["jinja2.ext.loopcontrols"]
        jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=more)
        jinja.globals |= {"raise_exception": _refuse, "strftime_now": _today}
        jinja.filters["tojson"] = _as_json
        try:
            template = jinja.from_string(self.template)
            around, filled = (self._filled(template, x) for x in (TEXT, text))
        except Exception as error:  # whatever a program of somebody else can do
            raise ValueError(
                f"The template of a chat fails: {checks.shown(str(error))}. {INSTEAD}"
            ) from None
        for taken in (text, text.strip()) if TEXT in around else ():
            if around.replace(TEXT, taken) == filled:
                return around, taken
        raise ValueError(
            f"The template of a chat does not write the text as it is, but {checks.shown(filled)}. "
            f"{INSTEAD}"
        )

    def _filled(self, template: Any, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return template.render(messages=messages, add_generation_prompt=True, **self.names)


def _by_bytes(merging: Any) -> bool:
    """Whether the letters of its tokens stand for bytes, each by itself."""
    return type(merging.decoder).__name__ == "ByteLevel"


def _refuse(why: str) -> None:
    """A template calls it where it has no words for a conversation."""
    raise ValueError(why)


def _today(form: str) -> str:
    return datetime.now().strftime(form)


def _as_json(x: Any, indent: int | None = None, **others: Any) -> str:
    """Jinja's own writes < as \\u003c, for web pages."""
    return json.dumps(x, ensure_ascii=False, indent=indent)


def of_merges(
    tokens: Sequence[str], merges: Iterable[str], kinds: Sequence[int], cut: str, **chat: Any
) -> Tokenizer:
    """A Tokenizer of what a GGUF file has.

    tokens  the text of each id; bytes are written as letters, as GPT-2 does
    merges  pairs "a b" that become one token, the first ones first
    kinds   of each token, as ggml counts them
    cut     a name in CUTS
    chat    template and names

    Raises ValueError where these are not what they should be, or do not fit together.
    """
    texts = tokens, merges = list(tokens), list(merges)
    if any(not isinstance(x, str) for listed in texts for x in listed) or len(kinds) != len(tokens):
        raise ValueError("The tokens and merges are no texts, or not each has its kind.")
    if cut not in CUTS:
        known = ", ".join(CUTS)
        raise ValueError(f"The text is cut as {cut!r} says, and known are: {known}.")
    library = _library()
    models, pre = library.models, library.pre_tokenizers
    ids = {token: i for i, token in enumerate(tokens)}
    for i, token in enumerate(tokens):
        if token and ids[token] != i:
            raise ValueError(
                f"The token {checks.shown(token)} is there twice: each text has one id."
            )
    control, named = (
        {t: i for t, i in ids.items() if t and kinds[i] == kind} for kind in (CONTROL, USER_DEFINED)
    )
    pairs: Any = [tuple(pair.split(" ")) for pair in merges]
    merged = {token for pair in pairs for token in (*pair, "".join(pair))}
    # A control token is no word, which Llama 3 would take as it is. A byte that has no token gets
    # an id of its own behind all others: left out, it would let its neighbours merge.
    held = {token: i for token, i in ids.items() if token in merged or token not in control}
    extra = sorted(byte for byte in pre.ByteLevel.alphabet() if byte not in held)
    held |= {byte: len(tokens) + i for i, byte in enumerate(extra)}
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= held.keys():
            raise ValueError(
                f"The merge {checks.shown(' '.join(pair))} is not of two tokens into a third: the "
                "merges are those of another vocabulary."
            )
    # Llama 3 takes a word that is a token as it is, whatever the merges make of it.
    merging = library.Tokenizer(models.BPE(held, pairs, ignore_merges=cut == "llama-bpe"))
    split = [pre.Split(library.Regex(regex), "isolated") for regex in CUTS[cut]]
    letters = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    merging.pre_tokenizer = pre.Sequence([*split, letters])
    merging.decoder = library.decoders.ByteLevel()
    return Tokenizer(merging, len(tokens), control, named, **chat)


def of_json(path: Path, size: int, **chat: Any) -> Tokenizer:
    """A Tokenizer of a tokenizer.json, of any kind that the library knows.

    size  of the vocabulary: rows of the embedding
    chat  template and names
    """
    merging, text = read_tokenizer(path, size)
    _settled(merging)
    added = merging.get_added_tokens_decoder()
    words = [x.content for x in added.values() if x.single_word]
    if words:
        raise ValueError(
            f"{path} has {checks.shown(words[0])}, a token that is read only as a word of its own, "
            "which is not done here."
        )
    control, named = (
        {x.content: i for i, x in added.items() if x.content and x.special == special}
        for special in (True, False)
    )
    patterns = {x.content: _pattern(x) for x in added.values() if x.lstrip or x.rstrip}
    return Tokenizer(merging, size, control, named, later=_later(text), patterns=patterns, **chat)


def read_tokenizer(path: Path, size: int) -> tuple[Any, str]:
    """The library's Tokenizer of a tokenizer.json, and the text of the file."""
    text = written.text(checks.file("path", path))
    try:
        merging = _library().Tokenizer.from_str(text)
    except (ImportError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library raises nothing narrower, and panics
        raise ValueError(f"{path} is none that the library tokenizers reads: {error}.") from None
    most = max(merging.get_vocab(with_added_tokens=True).values(), default=0)
    if most >= size:
        raise ValueError(
            f"{path} has the id {most}, and the embedding {size} rows: it is of another model."
        )
    return merging, text


def _pattern(token: Any) -> str:
    """Of an added token that takes the spaces before or behind it along."""
    before, behind = (r"\s*" if strips else "" for strips in (token.lstrip, token.rstrip))
    return before + re.escape(token.content) + behind


def _later(text: str) -> Any:
    """The tokenizer of a piece that is not the first, where only the first gets a space."""
    said = json.loads(text)
    cuts = said.get("pre_tokenizer") or {}
    firsts = [x for x in cuts.get("pretokenizers", [cuts]) if x.get("prepend_scheme") == "first"]
    for x in firsts:
        x["prepend_scheme"] = "never"
    return _settled(_library().Tokenizer.from_str(json.dumps(said))) if firsts else None


def _settled(merging: Any) -> Any:
    merging.encode_special_tokens = True  # as text; `Tokenizer` finds those that are meant
    merging.no_truncation()
    merging.no_padding()
    return merging


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ImportError('tokenizers is missing: pip install "qlesson[models]".') from None
    return tokenizers


def refuse_halves(text: str, name: str = "text") -> None:
    """Half a surrogate pair is no character, and has no bytes in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has half a surrogate pair, {text[error.start]!a}, at {error.start}: such text "
            "was decoded wrongly; leave it out."
        ) from None
