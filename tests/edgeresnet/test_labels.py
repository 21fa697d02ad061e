import pytest

from edgeresnet.errors import DataError
from edgeresnet.labels import read_labels


@pytest.mark.parametrize("content", ["cat\ndog\nbig owl\n", "\ufeffcat\r\n dog \r\nbig owl\r\n\r\n", '["cat", "dog",\n "big owl"]'])
def test_names_are_read_from_lines_and_from_json(tmp_path, content):
    path = tmp_path / "labels"
    path.write_bytes(content.encode())
    assert read_labels(path) == ("cat", "dog", "big owl")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has 0 name"),
        (b"cat\n", "has 1 name"),
        (b"cat\n\ndog\n", "name 2 of 3 is empty"),
        (b"cat\ndog\nowl\ndog\n", "'dog' is there twice, as name 2 and 4"),
        (b'["cat", "dog"', "begins like JSON and is not"),
        (b'["cat", 3]', "must be a list of names"),
        (b'{"0": "cat", "1": "dog"}', "must be a list of names"),
        (b"[" * 100_000, "begins like JSON and is not"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path, content, complaint):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as refused:
        read_labels(path)
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: the labels cannot be read \(No such file"):
        read_labels(tmp_path / "none.txt")
