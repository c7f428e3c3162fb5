r"""Tweets as tokens, for ordinary English word vectors.

Where there is a choice, the one is taken whose tokens GloVe's vectors have.

First the text is cleaned:

* HTML entities are undone, up to three deep (``&amp;lt;3`` is ``<3``).
* Characters that cannot be seen are dropped: controls, marks of direction, variation selectors,
  halves of surrogate pairs. The joiners stay.
* Other forms of quotes become ``'`` and ``"``. Unicode's form is NFC.

Then it is cut from left to right; at each place the first of these that fits is a token:

* **Placeholders**, as this tokeniser writes them, are themselves.
* **Addresses** are ``<url>``: from ``http://`` (any scheme) or ``www.`` up to a blank, a double
  quote or an angle bracket; without these, a name that ends in .com, .org, .net, .edu, .gov, .info
  or .co.uk, or in two letters and a slash (``t.co/x``). Marks at the end are not part of it.
  Addresses of **mail** are ``<email>``.
* **Users** are ``<user>``: ``@`` and letters, digits, ``_``, but not ``_`` alone.
* **Hashtags**, ``#`` and letters, digits, ``_``, at least one of them a letter, are ``<hashtag>``
  and their words, cut at ``_``, before digits and at capitals (``#TeamEdward`` is
  ``<hashtag> team edward``): ordinary vectors have the words and not the tags.
* **Emoticons**: with and without nose and tear (``:)`` ``=D`` ``;-P`` ``:'(`` ``8-)`` ``xD``);
  reversed ones only between blanks, for ``(text):`` has none; hearts ``<3`` ``</3``; eastern ones
  ``^_^`` ``^^`` ``-_-`` ``T_T`` ``o.O`` ``>.<``, also in brackets; ``\o/`` and the shrug. They keep
  their case.
* **Emoji**: one with a skin tone, several that are joined, a flag and a keycap are one token each.
* **Numbers** with ``. , : / -`` between digits: ``1,000.50`` ``8:30`` ``9/11`` ``2-1``. Signs,
  currency and percent are tokens of their own.
* **Abbreviations**: two or more single letters, each with a dot (``u.s.``); ``at&t``, ``r&b``.
* **Contractions** as in the Penn Treebank: ``do n't``, ``it 's``, ``i 'm``, ``they 've``.
* **Words** of letters and digits, with single ``'``, ``-`` or ``_`` inside (``o'clock``, ``13th``,
  ``re-think``). RT is the word ``rt``.
* **Dots**, two or more, and ``…`` are ``...``; **dashes**, and two or more hyphens, are ``--``;
  double **quotes**, any number, and two or more single ones are one ``"``.
* **Marks**: anything else that is no blank, each by itself.

What is written too long is cut: a letter three times or more in a row is there twice (``sooooo``
is ``soo``, the rule of Go et al. 2009). A mark or an emoji twice or more in a row is there once, as
is the mouth of an emoticon, and ``<repeat>`` follows (``!!!`` is ``! <repeat>``, as in GloVe's
tweets).

Tokens that are joined with blanks are cut into the same tokens again.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator

PLACEHOLDERS = ("<url>", "<email>", "<user>", "<hashtag>", "<repeat>")
"""What stands for other text; word vectors need not have these."""

_REPEAT = "<repeat>"
_DEEP = 3  # HTML entities within entities
_ENDLESS = re.compile(r"&#[0-9]{100,}+;?")  # no character, and more than int() takes
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe0e\ufe0f\ufeff\ud800-\udfff]"
)
_QUOTES = str.maketrans(dict.fromkeys("‘’‚‛ʼ＇´`", "'") | dict.fromkeys("“”„‟«»＂", '"'))

# Python's \w lacks the marks that the letters of many scripts carry.
_COMBINING = "".join(
    c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c) in "MnMc"
)
_TONES, _TAGS, _JOINER = "\U0001f3fb-\U0001f3ff", "\U000e0020-\U000e007f", "\u200d"

# Every repetition is possessive, bounded, or ends where the next token begins: time is linear.
_L = rf"[^\W_][{_COMBINING}\u200c{_JOINER}]*+"
_CLITIC = r"(?i: (?: n't | '(?:s|m|re|ve|ll|d) ) (?: (?![^\W_]) | (?=n't) ) )"
_REST_OF_ADDRESS = r"""[^\s<>"]*[^\s<>".,:;!?'*()\[\]{}|~…-]"""
_LABEL = r"[a-z0-9][a-z0-9-]{0,62}+"
_PICTURE = (
    r"[\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"
    rf"[{_TONES}]?[{_TAGS}]*+"
)

_TOKEN = re.compile(
    rf"""
    (?P<placeholder> {"|".join(PLACEHOLDERS)} )
    | (?P<url> (?i:
        (?: [a-z]{{2,6}}:// | www\. ) (?: {_REST_OF_ADDRESS} )?
        | (?: {_LABEL}\. ){{1,4}}
          (?: (?:com|org|net|edu|gov|info|co\.uk)(?![\w@]) | [a-z]{{2}}(?=/) )
          (?: (?=[/:]) {_REST_OF_ADDRESS} )?
      ))
    | (?P<email> (?i: \w[\w.+-]{{0,63}}+ @ {_LABEL} (?: \.{_LABEL} ){{1,4}} ) )
    | (?P<user> [@＠]++ (?= _*+[^\W_] ) \w++ )
    | (?P<hashtag> [\#＃]++ (?= \w*[^\W\d_] ) (?: {_L} | _ )++ )
    | (?P<emoticon>
        [>}}]? : '? [-o^*]? (?: (?P<mouth> [)(\]\[}}{{|/\\] ) (?P=mouth)*+
                            | (?P<lips> [DdPpOoSsXxc3@*$<>] ) (?P=lips)*+ (?!\w) )
        | >? [;=] '? [-o^]? (?: (?P<wry> [)(\]\[}}{{|/\\*] ) (?P=wry)*+
                            | (?P<grin> [DPp] ) (?P=grin)*+ (?!\w) )
        | 8-[)(D] | [xX]D++ (?!\w)
        | (?<!\S) (?P<reversed> [)(\]\[}}{{|/\\D] ) (?P=reversed)*+ [-o^*]? '? [:;=] (?!\S)
        | <3++ (?! \d | [.,:]\d ) | </3 (?!\d)
        | (?P<bracket> \( )?
          (?: \^(?:_++|[-.o])?\^ | (?P<eye> [-=*;@$~¬] ) _++ (?P=eye) | > [_.]++ <
            | (?: [oO](?:_++|\.)[oO] | (?P<lid> [TtUuXxNnVvQq] ) _++ (?P=lid) ) (?![\w.]) )
          (?(bracket) \) )
        | \\o/ | ¯\\_\(ツ\)_/¯
      )
    | (?P<emoji>
        (?P<one> [\U0001f1e6-\U0001f1ff]{{2}} | [0-9\#*]\u20e3
               | {_PICTURE} (?: {_JOINER} {_PICTURE} )*+ )
        (?: (?P=one) (?! [{_TONES}{_TAGS}{_JOINER}] ) )*+
      )
    | (?P<number> \d++ (?: [.,:/-]\d++ )++ )
    | (?P<abbreviation> (?: [A-Za-z]\. ){{2,}}+ | [A-Za-z]{{1,2}} & [A-Za-z] (?!\w) )
    | (?P<contraction> {_CLITIC} )
    | (?P<word> {_L} (?: (?!{_CLITIC}) ['_-]? {_L} )*+ )
    | (?P<dots> [.…]{{2,}}+ | … )
    | (?P<dashes> [-–—―]{{2,}}+ | [–—―] )
    | (?P<quotes> "++ | '{{2,}}+ )
    | (?P<mark> (?P<same> \S ) (?P=same)*+ )
    """,
    re.VERBOSE,
)
_STANDS_FOR = {
    "url": "<url>",
    "email": "<email>",
    "user": "<user>",
    "dots": "...",
    "dashes": "--",
    "quotes": '"',
}
_WORDS_OF_TAG = re.compile(
    r"_+ | (?<=[^\W\d_])(?=\d) | (?<=[a-z])(?=[A-Z]) | (?<=[A-Z])(?=[A-Z][a-z])", re.VERBOSE
)
_LETTERS = re.compile(r"([^\W\d_])\1{2,}")
_DRAWN_LONG = re.compile(r"([^^])\1+")  # in an emoticon; ^^ is two eyes


def tokenise(text: str, *, lower: bool = True) -> list[str]:
    """The tokens of a tweet, by the rules above; any string has some or none.

    Args:
        text: As it was written, with HTML entities or without.
        lower: In lower case, all but emoticons.

    Example:
        >>> tokenise("@anna I can't wait!!! :)) #TeamEdward http://t.co/x")
        ['<user>', 'i', 'ca', "n't", 'wait', '!', '<repeat>', ':)', '<repeat>', '<hashtag>', \
'team', 'edward', '<url>']
    """
    return list(_tokens(_cleaned(text), lower))


def without_emoticons(tokens: Iterable[str]) -> list[str]:
    """What is left of tokens without their emoticons.

    For tweets whose labels come from their emoticons (Go et al. 2009): a model that saw both would
    learn nothing else. A colon and a round bracket with a blank between count as one. Emoji stay.

    Args:
        tokens: As `tokenise` gives them.
    """
    left: list[str] = []
    cut = False  # whether the token before was an emoticon
    for token in tokens:
        if token in ("(", ")") and left[-1:] == [":"] and not cut:
            left.pop()
            cut = True
        elif _is_emoticon(token):
            cut = True
        elif token != _REPEAT or not cut:
            left.append(token)
            cut = False
    return left


def _is_emoticon(token: str) -> bool:
    match = _TOKEN.fullmatch(token)
    return match is not None and match.lastgroup == "emoticon"


def _cleaned(text: str) -> str:
    for _ in range(_DEEP):
        text = html.unescape(_ENDLESS.sub("\ufffd", text))
    return unicodedata.normalize("NFC", _UNSEEN.sub("", text).translate(_QUOTES))


def _tokens(text: str, lower: bool) -> Iterator[str]:
    for match in _TOKEN.finditer(text):
        kind, token = str(match.lastgroup), match[0]
        if kind in _STANDS_FOR:
            yield _STANDS_FOR[kind]
        elif kind == "hashtag":
            yield "<hashtag>"
            for word in filter(None, _WORDS_OF_TAG.split(token.lstrip("#＃"))):
                yield _written(word, lower)
        elif kind in ("emoticon", "emoji", "mark"):
            once = match["one"] or match["same"] or _DRAWN_LONG.sub(r"\1", token)
            yield once
            if once != token:
                yield _REPEAT
        else:
            yield _written(token, lower)


def _written(word: str, lower: bool) -> str:
    return _LETTERS.sub(r"\1\1", word.lower() if lower else word)
