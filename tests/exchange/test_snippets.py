"""The movie-review snippets: ratings become labels, and one archive gives the same three tables each time."""

import csv

from sinkd.exchange.snippets import DEV, MORE, TABLES, TRAIN, read_ratings, write_tables


def test_clear_ratings_become_labels_and_text_is_decoded(tmp_path):
    lines = ["1\t2.5\ta ''fine'' film", "2\t-0.5\tLovely &amp; dull"]
    lines += ["3\t0.49\tso so", "4\t-3\ta 'fine' film", "5\t-1\ta ''fine'' film"]
    (tmp_path / "ratings.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    assert read_ratings(tmp_path / "ratings.txt") == [
        ('a "fine" film', "positive"), ("Lovely & dull", "negative"), ("a 'fine' film", "negative"),
    ]  # fmt: skip


def test_tables_share_no_row_and_are_the_same_each_time(tmp_path):
    rows = [(f'sentence "{n}",\nin two lines', "ab"[n % 2]) for n in range(300)]
    for name in ("one", "two"):
        write_tables(rows, tmp_path / name)
    one, two = ([(tmp_path / name / table).read_bytes() for table in TABLES] for name in ("one", "two"))
    assert one == two
    labelled = {
        table: [(row["text"], row["label"]) for row in csv.DictReader((tmp_path / "one" / table).open(newline=""))]
        for table in (TRAIN, DEV)
    }
    more = (tmp_path / "one" / MORE).read_text().splitlines()
    assert [len(labelled[TRAIN]), len(more), len(labelled[DEV])] == [30, 210, 60]
    assert set(labelled[TRAIN] + labelled[DEV]) <= set(rows)
    texts = {" ".join(text.split()) for text, _ in labelled[TRAIN] + labelled[DEV]} | set(more)
    assert texts == {" ".join(text.split()) for text, _ in rows}
