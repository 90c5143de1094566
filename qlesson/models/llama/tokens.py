"""A model's tokenizer, from the tokens and merges in its file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qlesson import checks

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens as ggml counts them; 1 is an ordinary one
# Where a text is cut before anything is merged, by the name that files give it.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CUTS = {"smollm": (r"\p{N}", WORDS), "gpt-2": (WORDS,)}
TEXT = "\ue000"  # stands in a chat's template for the text


class Tokenizer:
    """Text to ids and back: bytes, of which pairs are merged (Sennrich et al. 2016).

    tokens    the text of each id; bytes are written as letters, as GPT-2 does
    merges    pairs "a b" that become one token, the first ones first
    kinds     of each token, as ggml counts them
    cut       a name in CUTS
    template  of a chat, in Jinja; None where there is none
    names     what else the template knows, such as {"bos_token": "<s>"}

    A control token, such as the end of an answer, is read only where `special` asks for it, so that
    no text can pretend to be one.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Iterable[str],
        kinds: Sequence[int],
        cut: str,
        template: str | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        if cut not in CUTS:
            known = ", ".join(CUTS)
            raise ValueError(f"The text is cut as {cut!r} says, and known are: {known}.")
        self.template, self.names = template, dict(names or {})
        ids = {token: i for i, token in enumerate(tokens)}
        self.control = {t: i for t, i in ids.items() if kinds[i] == CONTROL}
        self.named = {t: i for t, i in ids.items() if kinds[i] == USER_DEFINED}
        self._size, self._merging = len(tokens), _merging(ids, merges, CUTS[cut])

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text, none for an empty one.

        special  read "<|im_end|>" and the like as the control tokens that they name; else they are
                 text like any other
        """
        checks.of_type("text", text, str, "pass text")
        checks.one_of("special", special, (True, False))
        _refuse_halves(text)
        return self._encode(text, self.named | (self.control if special else {}))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, control tokens by their names; bytes that are no text become �."""
        if isinstance(ids, str) or not hasattr(ids, "__iter__"):
            raise TypeError(f"ids must be a list of ids, got {checks.shown(ids)}: use [id].")
        listed = [checks.whole("ids", i, 0, self._size - 1) for i in ids]
        return self._merging.decode(listed, skip_special_tokens=False)

    def chat(self, text: str) -> list[int]:
        """The ids of a conversation that begins with this text and waits for the answer.

        Control tokens are those of the template; the text cannot add any.
        """
        checks.text("text", text)
        _refuse_halves(text)
        ids: list[int] = []
        specials = self.named | self.control
        for piece in _pieces(self._conversation(), specials):
            filled = piece.replace(TEXT, text)
            ids += [specials[piece]] if piece in specials else self._encode(filled, self.named)
        return ids

    def _encode(self, text: str, specials: Mapping[str, int]) -> list[int]:
        ids: list[int] = []
        for piece in _pieces(text, specials):
            if piece in specials:
                ids.append(specials[piece])
            else:
                merged = self._merging.encode(piece, add_special_tokens=False).ids
                ids += [i for i in merged if i < self._size]
        return ids

    def _conversation(self) -> str:
        if self.template is None:
            raise ValueError("The file has no template of a chat: use tokenizer.encode(text).")
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # here: it takes a while

        jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        messages = [{"role": "user", "content": TEXT}]
        filled = jinja.from_string(self.template)
        return filled.render(messages=messages, add_generation_prompt=True, **self.names)


def _pieces(text: str, specials: Iterable[str]) -> list[str]:
    """The text, cut before and after each of the specials, without empty pieces."""
    longest_first = sorted(specials, key=len, reverse=True)
    if not longest_first:
        return [text] if text else []
    return [p for p in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if p]


def _merging(ids: Mapping[str, int], merges: Iterable[str], cuts: Iterable[str]) -> Any:
    """What cuts a text and merges its bytes."""
    try:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers
    except ImportError:
        raise ImportError('tokenizers is missing: pip install "qlesson[models]".') from None
    # A byte that has no token gets an id of its own behind all others: left out before merging, it
    # would let its neighbours merge.
    extra = [b for b in pre_tokenizers.ByteLevel.alphabet() if b not in ids]
    ids = {**ids, **{b: len(ids) + i for i, b in enumerate(sorted(extra))}}
    pairs: Any = [tuple(pair.split(" ")) for pair in merges]
    merging = tokenizers.Tokenizer(models.BPE(ids, pairs))
    split = [pre_tokenizers.Split(tokenizers.Regex(cut), "isolated") for cut in cuts]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merging.pre_tokenizer = pre_tokenizers.Sequence([*split, letters])
    merging.decoder = decoders.ByteLevel()
    return merging


def _refuse_halves(text: str) -> None:
    """Half a surrogate pair is no character, and has no bytes in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has half a surrogate pair, {text[error.start]!a}, at {error.start}: such text "
            "was decoded wrongly; leave it out."
        ) from None
