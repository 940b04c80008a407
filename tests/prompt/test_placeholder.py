import pytest

from watchword.errors import RequestError
from watchword.prompt.placeholder import check_kept, expand_ids, expand_text


def test_placeholders_are_repeated_in_order():
    texts = ["a <v> b <v>", "none", "<v>"]
    assert expand_text(texts, "<v>", [2, 1, 3], "video") == ["a <v><v> b <v>", "none", "<v><v><v>"]
    assert expand_ids([5, 9, 6, 9], 9, [2, 3]) == [5, 9, 9, 6, 9, 9, 9]
    assert expand_text([], "<v>", [], "video") == []


@pytest.mark.parametrize("counts", [[], [1], [1, 1, 1]])
def test_placeholders_must_be_as_many_as_media(counts):
    with pytest.raises(
        RequestError, match=rf"2 <v> \(\[1, 1\] per text\) and {len(counts)} video\(s\) were given"
    ):
        expand_text(["<v>", "<v>"], "<v>", counts, "video")
    with pytest.raises(RequestError, match=rf"2 placeholders \(id 9\) for {len(counts)} media"):
        expand_ids([9, 1, 9], 9, counts)


def test_placeholders_must_survive_tokenizing():
    check_kept(["<v><v> a"], [[9, 9, 1]], "<v>", 9, "video")
    with pytest.raises(RequestError, match=r"Mismatch in `video` token count .*ids=\[1\] and text=\[2\]"):
        check_kept(["<v><v> a"], [[9, 1]], "<v>", 9, "video")
