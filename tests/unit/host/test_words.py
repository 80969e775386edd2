"""Words among the letters that rows of a prompt stand for."""

from __future__ import annotations

from conceptloom.host.conditioning import Prompt, find_run
from conceptloom.host.families.llm_text import END, START, USER, is_content, prompt_rows, tokens_of
from conceptloom.host.words import Piece, Words, pieces_of

TEXTS = {1: "a", 2: " photo", 3: " of", 4: " a red", 5: " tea", 6: "pot", 7: ",", 8: " Cat", 9: "s"}


def decode(ids: list[int]) -> str:
    data = b""
    for token in ids:
        data += bytes([token - 1000]) if token > 1000 else TEXTS[token].encode()
    return data.decode(errors="replace")


def test_words_are_found_whatever_tokens_they_are_cut_into():
    tokens = pieces_of([1, 2, 3, 4, 5, 6, 7, 8, 9], decode)
    assert find_run(tokens, (Words("teapot"),)) == (4, 5)
    assert find_run(tokens, (Words("red  Teapot"),)) == (3, 4, 5)
    assert find_run(tokens, (Words("a"),)) == (0, 3)
    assert find_run(tokens, (Words("cats"),)) == (7, 8)
    assert find_run(tokens, (Words("cat"),)) == ()
    assert find_run(tokens, (Words("tea"),)) == ()
    assert find_run(tokens, (Words(" "),)) == ()


def test_a_letter_of_several_tokens_is_all_of_them():
    letter = "\u9f98".encode()
    tokens = pieces_of([1, *(1000 + byte for byte in letter), 8], decode)
    assert [token.letters for token in tokens] == ["a", "\u9f98", "\u9f98", "\u9f98", " Cat"]
    assert find_run(tokens, (Words("\u9f98"),)) == (1, 2, 3)
    assert find_run(tokens, (Words("a\u9f98"),)) == (0, 1, 2, 3)


def test_words_of_scripts_without_spaces_stand_inside_of_others():
    tokens = (Piece(0, "\u4e00\u53ea"), Piece(2, "\u732b\u5728"))
    assert find_run(tokens, (Words("\u732b"),)) == (1,)


def test_a_learned_vector_is_no_letter():
    tokens = pieces_of([1, None, 8], decode)
    assert [token.start for token in tokens] == [0, 1, 2]
    assert [token.letters for token in tokens] == ["a", "\ufffc", " Cat"]
    assert find_run(tokens, (Words("cat"),)) == (2,)
    assert find_run(tokens, (Words("a cat"),)) == ()


def test_only_the_prompt_of_a_template_is_searched():
    ids = [*USER, 1, 2, END, 198, START, 77091, 198]
    assert prompt_rows(ids) == slice(3, 5)
    tokens = tokens_of(ids, decode, len(ids))
    assert is_content(tokens) == (False,) * 3 + (True,) * 2 + (False,) * 5
    assert find_run(tokens, (Words("photo"),)) == (4,)
    assert tokens_of(ids, decode, len(ids) - 3) == tokens[3:]
    assert Prompt("a photo", None, tokens).find((Words("a photo"),)) == (3, 4)  # type: ignore[arg-type]


def test_a_prompt_that_holds_the_marks_of_the_template():
    ids = [START, 8948, 198, END, 198, *USER, 1, END, *USER, 2, END, 198, START, 77091, 198]
    assert prompt_rows(ids) == slice(8, 14)
