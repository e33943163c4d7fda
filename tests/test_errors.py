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
