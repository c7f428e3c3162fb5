"""Every rule of `recdrop.lab.tweets`, with NLTK's tokeniser as an oracle where they agree."""

import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize.casual import TweetTokenizer

from recdrop.lab.tweets import PLACEHOLDERS, tokenise, without_emoticons
from tests.lab.benchmark_data import benchmark

NLTK = TweetTokenizer(preserve_case=False)


# --------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Nothing, blanks, what cannot be seen.
        ("", ""),
        (" \t\r\n\u00a0\u2028", ""),
        ("\ud800\x00\u200b\ufeff", ""),
        ("so\u00adft\u200b \x07bell\ufe0f", "soft bell"),
        # HTML entities.
        ("&lt;3 R&amp;B &quot;so&quot;", '<3 r&b " so "'),
        ("&amp;lt;3 &amp;amp;lt;3 &amp;amp;amp;lt;3", "<3 <3 & lt ; 3"),
        ("you &amp; me &#128514;", "you & me 😂"),
        ("&#" + "1" * 5_000 + ";", "\ufffd"),
        # Unicode.
        ("cafe\u0301 CAFÉ", "café café"),
        ("नमस्ते สวัสดี", "नमस्ते สวัสดี"),
        ("it’s “so” ‘so’ it´s", "it 's \" so \" ' so ' it 's"),
        # Addresses.
        ("http://t.co/TZZzrrKa! HTTPS://X.com/a?b=c#d).", "<url> ! <url> ) ."),
        ("see:http://x.com/a_(b) ftp://x www.x.nl,", "see : <url> ) <url> <url> ,"),
        ("x.com, bbc.co.uk/news bit.ly/x youtu.be/y: ", "<url> , <url> <url> <url> :"),
        ("foo.org:80/a.", "<url> ."),
        ("ok.so then.me http:// www.", "ok . so then . me <url> <url>"),
        ("a.b@x.co.uk me@x.com.", "<email> <email> ."),
        # Users and hashtags.
        ("@Anna: RT@bob_1 .@x via:@y ＠z", "<user> : rt <user> . <user> via : <user> <user>"),
        ("@ home @@x", "@ home <user>"),
        ("#TeamEdward #nice #a_b", "<hashtag> team edward <hashtag> nice <hashtag> a b"),
        ("#_ #1 ##x #2ndDay", "# _ # 1 <hashtag> x <hashtag> 2nd day"),
        ("#NBAFinals2012 #iPhone5", "<hashtag> nba finals 2012 <hashtag> i phone 5"),
        # Numbers, times, money.
        ("$3.39 £1,000.50 50% -5 +1", "$ 3.39 £ 1,000.50 50 % - 5 + 1"),
        ("8:30pm 8am 9/11 24/7 2-1 13th", "8:30 pm 8am 9/11 24/7 2-1 13th"),
        ("480.299.6988", "480.299.6988"),
        # Abbreviations, contractions, words.
        ("U.S. a.m. J.K. AT&T q&a you&me", "u.s. a.m. j.k. at&t q&a you & me"),
        ("Don't can't ISN'T won't cannot dont", "do n't ca n't is n't wo n't cannot dont"),
        ("it's I'm they've we'll he'd you're", "it 's i 'm they 've we 'll he 'd you 're"),
        ("shouldn't've he'd've", "should n't 've he 'd 've"),
        ("o'clock y'all goin' 'em", "o'clock y'all goin ' ' em"),
        ("re-think ex-wife's a_b", "re-think ex-wife 's a_b"),
        ("w/o and/or", "w / o and / or"),
        # Dots, dashes, quotes, marks.
        ("so.. so... so… .…. end.", "so ... so ... so ... ... end ."),
        ("a - b -- c --- d — e", "a - b -- c -- d -- e"),
        ("``so'' \"\"so\"", '" so " " so "'),
        ("wow! wow!!! what?!?!", "wow ! wow ! <repeat> what ? ! ? !"),
        ("a(b) [c] *** ~", "a ( b ) [ c ] * <repeat> ~"),
        # Too long.
        ("sooooo LOOOOL aww goood 1000 hahaha", "soo lool aww good 1000 hahaha"),
        ("SoOoO ㅋㅋㅋㅋ", "soo ㅋㅋ"),
        # Emoji.
        ("😂😂😂 so😂 ❤️ ❤", "😂 <repeat> so 😂 ❤ ❤"),
        ("👍👍🏽 👨‍👩‍👧 🇺🇸🇬🇧🇬🇧 1️⃣", "👍 👍🏽 👨‍👩‍👧 🇺🇸 🇬🇧 <repeat> 1⃣"),
        # Placeholders.
        ("<user> <url>x <repeat> <b>", "<user> <url> x <repeat> < b >"),
    ],
)  # fmt: skip
def test_rules(text, expected):
    assert tokenise(text) == expected.split()


WESTERN = ":) :-) :D :-D :( :-( ;) ;-) ;D :P :-P :p =) =D =( =] =/ :/ :-/ :\\ :| :] :[ :} :{ :o :O"
NOSED = ":'( :') :'D :o) :^) 8-) 8-D xD XD >:( >:) >:D :3 :S :s :x :X :* :-* :$ :@ :> :<"
REVERSED = "(: (-: (; (= ): )-: )': [: ]: D: D= /:"
EASTERN = (
    "^_^ ^^ ^.^ ^-^ -_- >_< >.< o_o O_o o.O T_T u_u ;_; *_* @_@ (^_^) (T_T) (>_<) \\o/ ¯\\_(ツ)_/¯"
)
HEARTS = "<3 </3"
EMOTICONS = " ".join([WESTERN, NOSED, REVERSED, EASTERN, HEARTS]).split()


@pytest.mark.parametrize("emoticon", EMOTICONS)
def test_emoticons(emoticon):
    assert tokenise(emoticon) == [emoticon]
    assert tokenise(f"Hi {emoticon} you") == ["hi", emoticon, "you"]
    assert without_emoticons(tokenise(f"Hi {emoticon} you")) == ["hi", "you"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so:) so:(so", "so :) so :( so"),
        (":))) :((( :DDD (((: ^____^ <333", ":) * :( * :D * (: * ^_^ * <3 *"),
        ("(like this): that (8) (b): 1) 8)", "( like this ) : that ( 8 ) ( b ) : 1 ) 8 )"),
        ("<30 I<3you <3.5 2:30 a:Doing x=3 =>", "< 30 i <3 you < 3.5 2:30 a : doing x = 3 = >"),
        ("xDay boxD love:<3 :<url>", "xday boxd love : <3 : <url>"),
        ("foo_o_o T.T. A.D.", "foo_o_o t.t. a.d."),
    ],
)
def test_emoticons_beside_other_text(text, expected):
    assert tokenise(text) == expected.replace("*", "<repeat>").split()


def test_case_is_kept_if_wanted():
    text = "RT I'm SOOOO happy, :D #TeamEdward @Anna"
    kept = ["RT", "I", "'m", "SOO", "happy", ",", ":D", "<hashtag>", "Team", "Edward", "<user>"]
    assert tokenise(text, lower=False) == kept
    assert tokenise(text) == [word if word == ":D" else word.lower() for word in kept]


def test_without_emoticons():
    def left(text):
        return " ".join(without_emoticons(tokenise(text)))

    assert left("so happy :))) wow!!! <3<3 XD") == "so happy wow ! <repeat>"
    assert left("so sad : ( so : ))) so") == "so sad so so"  # the labels of Go et al. have these
    assert left("he said: (so) :() ) 😂") == "he said so ) ) ) 😂"
    assert left(":) :(") == left("") == ""
    assert without_emoticons(["<repeat>", ")", ":", "x"]) == ["<repeat>", ")", ":", "x"]


# ------------------------------------------------------------------------------------- properties


PIECES = [
    *(*":)(DxX8-'<3^_ToO.…@#aBéİ&!?>=;p/😀🇺🇸🏴1*$~\"`—Σ\\|{]%+", "n't", "'s", "<3", "amp;", "&lt"),
    *(
        "http://",
        "www.",
        "com",
        "t.co/x",
        "23",
        "<url>",
        "<repeat>",
        "हि",
        "aaa",
        "@x",
        "¯\\_(ツ)_/¯",
    ),
    *("\u0301", "\U0001f3fd", "\u200d", "\ufe0f", "\u20e3", "\ud800", "\x00", "\u200b", "\u1100"),
    *("\u1161", "\U000e0067", "ẞ", "ǅ", "K", "ſ", " ", " ", "  ", "\n"),
]


def check(text, lower):
    tokens = tokenise(text, lower=lower)
    assert all(tokens)
    assert not any(char.isspace() for token in tokens for char in token)
    "".join(tokens).encode()
    assert tokenise(" ".join(tokens), lower=lower) == tokens
    without_emoticons(tokens)


ANY_TEXT = st.one_of(
    st.text(),
    st.text(st.characters()),  # halves of surrogate pairs too
    st.lists(st.sampled_from(PIECES)).map("".join),
)


@settings(max_examples=500, deadline=None)
@given(ANY_TEXT, st.booleans())
def test_any_text_has_tokens_that_stay_what_they_are(text, lower):
    check(text, lower)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(ANY_TEXT, st.booleans())
def test_many_texts_have_tokens_that_stay_what_they_are(text, lower):
    check(text, lower)


UNITS = [
    *("a", "1", "a.", "a.a", "1.", "a-", "a'", "n't", "#1", "#_", "a@", "ab&", "x.y.z.w/", "http:"),
    *("http://!", "www.!", "x.com:", ":(", "((((:", "(", ";=", "__-", "-_", "^_", "(^", "$_", "T_"),
    *("!?", ".", "'", "_", "&", "&lt", "&#1", "&#x1", "<", "\u0301", "a\u0301\u200d", "😀\u200d"),
    *("😀", "😀😀\U0001f3fb", "🏴\U000e0067", "a" * 62 + "-", "\ud800", " "),
]


def seconds_for(unit, size):
    text = unit * (size // len(unit))
    start = time.process_time()
    for end in ("", "!", "@x.com"):
        tokenise(text + end)
    return (time.process_time() - start) / 3


def test_time_is_linear():
    for unit in UNITS:
        assert seconds_for(unit, 10_000) < 0.2, unit  # what is quadratic takes seconds


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_takes_two_seconds(unit):
    assert seconds_for(unit, 1_000_000) < 2.0


# ----------------------------------------------------------------------------------- beside NLTK's


def nltk(text):
    """NLTK's tokens, with our placeholders for addresses, users and tags."""
    for token in NLTK.tokenize(text):
        if re.match(r"https?://|www\.", token):
            yield "<url>"
        elif token.startswith("@") and len(token) > 1:
            yield "<user>"
        elif re.match("#.*[a-z]", token):
            yield from ("<hashtag>", token[1:])
        else:
            yield token


@pytest.mark.parametrize(
    "text",
    [
        "Some plain words, with commas; and: marks. Really? (Yes) [no]!",
        "re-think o'clock y'all a_b 13th 8am mp3",  # words
        "3.39 1,000 9/11 2-1 1980",  # numbers and times
        "$ 5 £ 6 50 %",  # currency
        "a @anna b @bob_1: c",  # users
        "a http://t.co/TZZzrrKa b https://x.com/a?b=c, d",  # addresses
        "#happy and #sad_",  # tags of one word
        ":) :-) :( :-( :D :-D ;) ;-) :P :p :/ :-/ :| :] :[ =) =( =D 8-) :'( (: <3 </3 >:(",
        "so :) so",
        "😂 👍🏽 👨‍👩‍👧 🇺🇸 so 😂 😂",  # emoji
        "&lt;3 you &amp; me",  # entities
        "wait ... what",
    ],
)
def test_nltk_has_the_same_tokens(text):
    assert tokenise(text) == [token.rstrip("_") for token in nltk(text)]


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        ("don't", "do n't", "don't"),  # as vectors have them
        ("#TeamEdward", "<hashtag> team edward", "#teamedward"),
        ("sooooo", "soo", "sooooo"),
        ("!!!", "! <repeat>", "! ! !"),
        ("😂😂", "😂 <repeat>", "😂 😂"),
        ("…", "...", "…"),
        ("--", "--", "- -"),
        ("it’s", "it 's", "it ’ s"),
        ("U.S.", "u.s.", "u . s ."),
        ("AT&T", "at&t", "at & t"),
        ("1,000.50", "1,000.50", "1,000 . 50"),
        (":)))", ":) <repeat>", ":) ) )"),
        ("^_^", "^_^", "^ _ ^"),
        ("xD", "xD", "xd"),
        ("(text): x", "( text ) : x", "( text ): x"),  # no emoticon
        ("8:30 x", "8:30 x", "8: 30 x"),  # a time, no emoticon
        ("<b>", "< b >", "<b>"),
        ("->", "- >", "->"),
        ("ok.so then", "ok . so then", "ok.so then"),  # no address
        ("&amp;lt;3", "<3", "& lt ; 3"),
        ("❤️", "❤", "❤ \ufe0f"),
    ],
)
def test_where_nltk_differs(text, ours, theirs):
    assert tokenise(text) == ours.split(" ")
    assert NLTK.tokenize(text) == theirs.split(" ")


# --------------------------------------------------------------------------------------- SemEval


def real_tweets() -> list[str]:
    semeval = benchmark("data/semeval")
    names = ("twitter2013train", "twitter2013dev", "twitter2013test")
    files = [(semeval / f"{name}.tsv").read_text(encoding="utf-8") for name in names]
    return [line.split("\t")[2] for content in files for line in content.splitlines()]


def level(tokens):
    """Without four of the differences above: contractions, repeats, dots, marks in a row."""
    found = []
    for token in tokens:
        ends = re.fullmatch(r"(.+?)(n't|'(?:s|m|re|ve|ll|d))", token)
        for part in ends.groups() if ends else (token,):
            one = re.sub(r"(.)\1{2,}", r"\1\1", part)
            one = "..." if one in ("…", "..") else one
            if one != "<repeat>" and (one.isalnum() or found[-1:] != [one]):
                found.append(one)
    return found


def test_nltk_has_the_same_tokens_of_most_real_tweets():
    """What is left: numbers with their units, faces, abbreviations, tags of several words."""
    tweets = real_tweets()[::5]
    ours = [level(tokenise(tweet)) for tweet in tweets]
    theirs = [level(t.rstrip("_") for t in nltk(tweet.replace("’", "'"))) for tweet in tweets]
    same = sum(map(list.__eq__, ours, theirs)) / len(tweets)
    assert same > 0.84
    common = sum((Counter(a) & Counter(b)).total() for a, b in zip(ours, theirs, strict=True))
    assert common > 0.98 * max(sum(map(len, ours)), sum(map(len, theirs)))


def test_the_tweets_of_semeval():
    tweets = real_tweets()
    tokens = [token for tweet in tweets for token in tokenise(tweet)]
    # The paper: 15 thousand tweets, 330 thousand words, a vocabulary of 22 thousand.
    assert len(tweets) == 15_151
    assert 320_000 < len(tokens) < 360_000
    assert 21_000 < len(set(tokens)) < 25_000
    assert set(PLACEHOLDERS) < set(tokens)
