import math

from mlml.points import Points, read


def test_points_are_read_in_order(tmp_path):
    points = Points(tmp_path / "run" / "points.jsonl")
    points.write(1, {"a": 0.1, "b": 2.0})
    points.write(2, {"a": math.nan})
    points.close()
    assert read(tmp_path / "run" / "points.jsonl")[:2] == [("a", 1, 0.1), ("b", 1, 2.0)]
    assert math.isnan(read(tmp_path / "run" / "points.jsonl")[2][2])


def test_cut_drops_what_came_after(tmp_path):
    points = Points(tmp_path / "points.jsonl")
    points.write(1, {"a": 1.0})
    offset = points.offset()
    points.write(2, {"a": 2.0})
    points.close()
    again = Points(tmp_path / "points.jsonl")
    again.cut(offset)
    again.write(2, {"a": 3.0})
    again.close()
    assert read(tmp_path / "points.jsonl") == [("a", 1, 1.0), ("a", 2, 3.0)]


def test_a_half_written_line_is_left_out(tmp_path):
    path = tmp_path / "points.jsonl"
    path.write_text('{"name": "a", "step": 1, "value": 1.0, "time": 0}\n{"name": "a", "st')
    assert read(path) == [("a", 1, 1.0)]
    assert read(tmp_path / "none") == []
