import pickle

from monai_vmat.errors import InputError


def test_the_message_says_where_what_and_how_to_mend():
    assert str(InputError("a.npz", "array 'ct' is missing", "Convert again")) == "a.npz: array 'ct' is missing. Convert again"
    assert isinstance(InputError("", "", ""), ValueError)


def test_it_crosses_process_borders():
    error = InputError("a.npz", "array 'ct' is missing", "Convert again")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.where, copy.problem, copy.mend, str(copy)) == (error.where, error.problem, error.mend, str(error))
