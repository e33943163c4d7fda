"""What TensorBoard's own HParams backend makes of two runs."""

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.data.provider import ListHyperparametersResult
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from torch.utils.tensorboard import SummaryWriter

from monai_vmat.dashboard.hparams import session_end, session_start

SETTINGS = {"amp": True, "experiment": "a", "loss": "1 mse", "patch_size": "9 x 9 x 9", "seed": 42, "weight_decay": 0.01}


@pytest.fixture
def table(tmp_path):
    """Columns and rows of two runs, of which one has ended."""
    for name in ("a", "b"):
        with SummaryWriter(str(tmp_path / name)) as writer:
            for summary in session_start(SETTINGS | {"experiment": name}, ["best/mae_gy"]):
                writer.file_writer.add_summary(summary)
            for step, value in ((1, 3.0), (2, 2.0 + (name == "b"))):
                writer.add_scalar("best/mae_gy", value, step)
            if name == "a":
                writer.file_writer.add_summary(session_end())
    files = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    backend = Context(TBContext(data_provider=MultiplexerDataProvider(files, str(tmp_path))))
    context = RequestContext()
    nothing = ListHyperparametersResult(hyperparameters=[], session_groups=[])
    columns = backend.experiment_from_metadata(context, "", True, backend.hparams_metadata(context, ""), nothing)
    statuses = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS]
    request = api_pb2.ListSessionGroupsRequest(slice_size=10, allowed_statuses=statuses, include_metrics=True)
    return columns, Handler(context, backend, "", request).run().session_groups


def test_a_row_for_each_run(table):
    _, rows = table
    assert [row.name for row in rows] == ["a", "b"]
    assert [row.hparams["experiment"].string_value for row in rows] == ["a", "b"]
    assert [row.hparams["seed"].number_value for row in rows] == [42, 42] and rows[0].hparams["amp"].bool_value is True
    assert [row.metric_values[0].value for row in rows] == [2.0, 3.0]  # the last
    assert [row.sessions[0].status for row in rows] == [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN]


def test_columns_of_which_those_that_matter_come_first(table):
    columns, _ = table
    assert [info.name for info in columns.hparam_infos] == ["loss", "seed", "amp", "experiment", "patch_size", "weight_decay"]
    kinds = {info.name: info.type for info in columns.hparam_infos}
    assert kinds["amp"] == api_pb2.DATA_TYPE_BOOL and kinds["loss"] == api_pb2.DATA_TYPE_STRING
    assert kinds["weight_decay"] == api_pb2.DATA_TYPE_FLOAT64
    assert [info.name.tag for info in columns.metric_infos] == ["best/mae_gy"]
