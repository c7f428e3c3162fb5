"""Which words a net knows, and the table of their vectors."""

from collections import Counter

import pytest
import torch

from recdrop.lab.config import LabelledData, TaggedData
from recdrop.lab.errors import BadInput
from recdrop.lab.vectors import save_vectors, sealed
from recdrop.lab.words import Words, WordTable, read_words

KNOWN = ("Apple", "apple", "rome", "The", "extra", "<unk>", "last")


@pytest.fixture
def given(tmp_path):
    """A file of vectors, and the vectors."""
    values = torch.randn(len(KNOWN), 3, generator=torch.Generator().manual_seed(0))
    save_vectors(tmp_path / "v.safetensors", sealed(KNOWN, values))
    return tmp_path / "v.safetensors", dict(zip(KNOWN, values, strict=True))


def test_learned_words_are_the_training_texts_own_in_small_letters():
    words = read_words(Counter(["b", "A", "a", "B", "a", "c"]), ["d"], TaggedData(), None)
    assert words.vocabulary.symbols == ("a", "b", "c", "<unk>")
    assert words.ids(["a", "A", "C", "d", ""]) == [0, 0, 2, 3, 3]
    assert words.vectors is words.source is words.stored is None


@pytest.mark.parametrize(("count", "kept"), [(1, {"a", "b", "c"}), (2, {"a", "b"}), (3, {"a"})])
def test_rare_words_are_not_learned(count, kept):
    seen = Counter(["a", "A", "a", "b", "B", "c"])
    words = read_words(seen, (), LabelledData(min_count=count), None)
    assert set(words.vocabulary.symbols) == {*kept, "<unk>"}


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (["a", "A", "b"], "none of the 2 different words of the training texts is there 3 times"),
        (["<unk>"] * 9, "none of the 1 different words"),
        ([], "none of the 0 different words"),
    ],
)
def test_texts_of_which_no_word_would_be_known_are_refused(seen, told):
    with pytest.raises(BadInput, match=f"data.min_count: {told}.*put blanks between the words"):
        read_words(Counter(seen), (), LabelledData(min_count=3), None)


def test_the_share_of_unknown_words():
    words = read_words(Counter(["a", "b"]), (), LabelledData(), None)
    assert words.unknown_share(["a", "B", "c", "a", "<unk>"]) == pytest.approx(2 / 5)
    assert words.unknown_share([]) == 0


def test_a_word_is_looked_up_as_written_and_then_in_small_letters(given):
    path, vectors = given
    seen = Counter(["Apple", "APPLE", "Rome", "the"])
    words = read_words(seen, (), TaggedData(more_vectors=0), path)
    known = words.vocabulary
    assert words.vectors is not None
    told = known.decode(words.ids(["Apple", "apple", "APPLE", "Rome", "the", "The", "x"]))
    assert told == ["Apple", "apple", "apple", "rome", "<unk>", "<unk>", "<unk>"]
    for word in ("Apple", "apple", "rome"):
        assert torch.equal(words.vectors[known.ids[word]], vectors[word])
    assert known.symbols[-1] == "<unk>"
    assert not words.vectors[-1].any()


def test_kept_are_the_words_of_all_texts_and_the_first_of_the_file(given):
    path, _ = given
    seen, others = Counter(["rome"]), ["LAST", "nowhere"]
    for more, kept in (
        (0, {"rome", "last"}),
        (2, {"rome", "last", "Apple", "apple"}),
        (6, {*KNOWN} - {"<unk>"}),  # whose own vector is not taken
        (50, {*KNOWN} - {"<unk>"}),
    ):
        words = read_words(seen, others, LabelledData(more_vectors=more), path)
        assert set(words.vocabulary.symbols) == {*kept, "<unk>"}
        assert words.source == {
            "name": "v.safetensors",
            "sha256": words.source and words.source["sha256"],
            "words": 7,
            "known_tokens": 1.0,
            "known_types": 1.0,
        }


def test_vectors_of_other_words_only_are_refused(given):
    path, _ = given
    for data in (LabelledData(), LabelledData(more_vectors=0)):
        with pytest.raises(BadInput, match=r"v\.safetensors: no word of the training text"):
            read_words(Counter(["nowhere"]), ["rome"], data, path)


def test_the_table_looks_up_and_keeps_what_lies_beyond_a_text_zero(given):
    path, _ = given
    words = read_words(Counter(["rome", "apple"]), (), TaggedData(more_vectors=0), path)
    values = words.vectors
    assert values is not None
    for vectors, tune in ((None, False), (None, True), (values, False), (values, True)):
        table = WordTable(3, 5, vectors, tune=tune)
        for parameter in table.parameters():
            torch.nn.init.uniform_(parameter)
        table.start()
        width = 5 if vectors is None else 3
        ids = torch.tensor([[0, 3], [2, 1]])
        told = table(ids)
        assert told.shape == (2, 2, width)
        assert not told[0, 1].any()
        learned = vectors is None or tune
        assert [*table.state_dict()] == (["table"] if learned else [])
        if vectors is not None:
            assert torch.equal(told[1], vectors[[2, 1]])
        if learned:
            told.sum().backward()
            assert table.table.grad is not None
            assert table.table.grad.sum(1).tolist() == [width, width, width, 0]


def test_an_unknown_word_has_an_id_even_where_the_text_has_the_sign_itself():
    words = read_words(Counter(["<unk>", "<unk>", "a"]), (), LabelledData(), None)
    assert words.vocabulary.decode(words.ids(["<UNK>", "x", "a"])) == ["<unk>", "<unk>", "a"]
    assert isinstance(words, Words)
