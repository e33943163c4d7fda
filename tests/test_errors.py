import pickle

from monai_vmat.errors import InputError, find_input_error


def test_the_message_says_where_what_and_how_to_mend():
    assert str(InputError("a.npz", "array 'ct' is missing", "Convert again")) == "a.npz: array 'ct' is missing. Convert again"
    assert isinstance(InputError("", "", ""), ValueError)


def test_it_crosses_process_borders():
    error = InputError("a.npz", "array 'ct' is missing", "Convert again")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.where, copy.problem, copy.mend, str(copy)) == (error.where, error.problem, error.mend, str(error))


def test_it_is_found_under_whatever_wrapped_it():
    inner, middle, outer = InputError("a.npz", "is bad", "Mend it"), RuntimeError("applying transform"), RuntimeError("failed")
    middle.__cause__, outer.__cause__ = inner, middle
    assert find_input_error(outer) is find_input_error(inner) is inner
    assert find_input_error(RuntimeError("ours is not among them")) is None and find_input_error(None) is None


def test_what_a_file_holds_is_quoted_on_one_short_line():
    error = InputError("a\nb.npz", "got " + "x" * 5000 + "\n\x00\ud800", "Known: " + "y" * 5000)
    assert str(error).isprintable() and len(str(error)) < 900
    assert str(error).startswith(r"a\nb.npz: got xxx") and r"\n\x00\ud800. Known: yyy" in str(error)
    assert error.where == "a\nb.npz" and len(error.problem) > 5000  # programs get all of it


def test_the_text_of_a_worker_process_stays_as_it_is():
    text = "Traceback:\n" + "x" * 5000
    assert str(InputError(text)) == text
