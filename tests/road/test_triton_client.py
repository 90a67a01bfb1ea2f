"""A client that was not written here, `tritonclient`, against a replica that stands alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import ml_dtypes  # comes with onnx
import numpy as np
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

from skyriver.release.signature import TensorSpec
from skyriver.serve.listening import listen_tcp
from skyriver.serve.replica import ReplicaSettings, serve_replica
from skyriver.serve.runner import Runner

DEADLINE = 120.0


def everything() -> bytes:
    """total[n] = the sum of numbers[n, 3], same = words[n, 1], turned = not flags[n], half = numbers as FP16."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["numbers", "axes"], ["total"], keepdims=0),
            helper.make_node("Identity", ["words"], ["same"]),
            helper.make_node("Not", ["flags"], ["turned"]),
            helper.make_node("Cast", ["numbers"], ["half"], to=TensorProto.FLOAT16),
        ],
        "everything",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("words", TensorProto.STRING, ["n", 1]),
            helper.make_tensor_value_info("flags", TensorProto.BOOL, ["n"]),
        ],
        [
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("same", TensorProto.STRING, ["n", 1]),
            helper.make_tensor_value_info("turned", TensorProto.BOOL, ["n"]),
            helper.make_tensor_value_info("half", TensorProto.FLOAT16, ["n", 3]),
        ],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    listening = listen_tcp("127.0.0.1", 0)
    host, port = listening.getsockname()
    ends: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        ends.set_result((asyncio.get_running_loop(), stop))
        settings = ReplicaSettings("everything", 3, alone=True, grace_s=1.0)
        await serve_replica(Runner(everything()), settings, listening, stop=stop)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, stop = ends.result(DEADLINE)
    yield f"{host}:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(
        address, concurrency=4, connection_timeout=DEADLINE, network_timeout=DEADLINE
    ) as made:
        yield made


NUMBERS = np.array([[1, 2, 3], [4, np.nan, 6], [0.5, 0.25, 0.125]], np.float32)
WORDS = np.array([["a"], ["größer"], [""]], object)
FLAGS = np.array([True, False, True])


def inputs(*, binary: bool, rows: int = 3, repeat: int = 1) -> list[triton.InferInput]:
    made = []
    for name, datatype, array in (("numbers", "FP32", NUMBERS), ("words", "BYTES", WORDS), ("flags", "BOOL", FLAGS)):
        given = np.concatenate([array[:rows]] * repeat)
        tensor = triton.InferInput(name, list(given.shape), datatype)
        if name == "numbers" and not binary:  # its client writes NaN, which is no JSON
            given = np.nan_to_num(given)
        tensor.set_data_from_numpy(given, binary_data=binary)
        made.append(tensor)
    return made


def outputs(*, binary: bool) -> list[triton.InferRequestedOutput]:
    names = ("total", "same", "turned") + (("half",) if binary else ())  # it takes FP16 as bytes only
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def check(result: triton.InferResult, *, gaps: bool, repeat: int = 1) -> None:
    numbers = np.concatenate([NUMBERS if gaps else np.nan_to_num(NUMBERS)] * repeat)
    np.testing.assert_array_equal(result.as_numpy("total"), numbers.sum(axis=1))
    words = [word if isinstance(word, bytes) else word.encode() for word in result.as_numpy("same").ravel()]
    assert words == [word.encode() for word in WORDS.ravel()] * repeat
    assert result.as_numpy("same").shape == (3 * repeat, 1)
    assert result.as_numpy("turned").tolist() == [False, True, False] * repeat


def test_it_lives_and_is_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("everything")
    assert client.is_model_ready("everything", "3")
    assert not client.is_model_ready("everything", "4")
    assert not client.is_model_ready("nothing")


def test_it_tells_what_it_is(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("skyriver", ["binary_tensor_data"])
    model = client.get_model_metadata("everything", "3")
    assert (model["name"], model["versions"], model["platform"]) == ("everything", ["3"], "onnxruntime_onnx")
    assert model["inputs"] == [
        TensorSpec("numbers", "FP32", (-1, 3)).to_json(),
        TensorSpec("words", "BYTES", (-1, 1)).to_json(),
        TensorSpec("flags", "BOOL", (-1,)).to_json(),
    ]
    assert [output["datatype"] for output in model["outputs"]] == ["FP32", "BYTES", "BOOL", "FP16"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_in_and_out(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    asked, wanted = inputs(binary=binary_in), outputs(binary=binary_out)
    if binary_in and not binary_out:  # an answer in JSON has null where the model gave NaN
        asked = inputs(binary=True, rows=1, repeat=3)
        result = client.infer("everything", asked, outputs=wanted)
        assert result.as_numpy("total").tolist() == [6, 6, 6]
        return
    result = client.infer("everything", asked, "3", wanted, request_id="r-1")
    check(result, gaps=binary_in)
    assert result.get_response()["id"] == "r-1"
    if binary_out:
        assert result.as_numpy("half").dtype == np.float16


def test_without_a_wish_all_outputs_come_as_bytes(client: triton.InferenceServerClient) -> None:
    result = client.infer("everything", inputs(binary=True))
    check(result, gaps=True)
    assert all("binary_data_size" in output["parameters"] for output in result.get_response()["outputs"])
    np.testing.assert_array_equal(result.as_numpy("half"), NUMBERS.astype(np.float16))


def test_bf16_is_refused_with_what_to_send_instead(client: triton.InferenceServerClient) -> None:
    asked = inputs(binary=True)
    asked[0] = triton.InferInput("numbers", [3, 3], "BF16")
    asked[0].set_data_from_numpy(NUMBERS.astype(ml_dtypes.bfloat16))
    with pytest.raises(InferenceServerException, match="the datatype BF16 is given, FP32 is wanted"):
        client.infer("everything", asked)


def test_many_at_once(client: triton.InferenceServerClient) -> None:
    asked = [client.async_infer("everything", inputs(binary=True)) for _ in range(32)]
    for one in asked:
        check(one.get_result(), gaps=True)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_both_ways(client: triton.InferenceServerClient, algorithm: str, binary: bool) -> None:
    result = client.infer(
        "everything",
        inputs(binary=binary, repeat=100),
        outputs=outputs(binary=binary),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    check(result, gaps=binary, repeat=100)


def test_parameters_and_time(client: triton.InferenceServerClient) -> None:
    result = client.infer("everything", inputs(binary=True), timeout=30_000_000, parameters={"colour": "red"})
    check(result, gaps=True)
    late = {"X-Request-Deadline": str(time.time() - 1)}
    with pytest.raises(InferenceServerException) as caught:
        client.infer("everything", inputs(binary=True), headers=late)
    assert caught.value.status() == "504"


def test_what_is_wrong_is_told(client: triton.InferenceServerClient) -> None:
    wrong = triton.InferInput("flags", [2], "BOOL")
    wrong.set_data_from_numpy(FLAGS[:2])
    wrong.set_shape([3])  # more than is there
    for given, told in (
        (inputs(binary=True)[:2], "'flags' is missing"),
        ([*inputs(binary=True)[:2], wrong], "2 bytes are given, 3 bytes are wanted"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("everything", given)
        assert caught.value.status() == "400"
        assert told in caught.value.message()
    with pytest.raises(InferenceServerException) as caught:
        client.infer("nothing", inputs(binary=True))
    assert caught.value.status() == "404"


def test_extensions_that_are_not_there_say_so(client: triton.InferenceServerClient) -> None:
    for call in (
        client.get_model_repository_index,
        lambda: client.load_model("everything"),
        lambda: client.unload_model("everything"),
        lambda: client.get_model_config("everything"),
        client.get_inference_statistics,
        lambda: client.get_inference_statistics("everything", "3"),
        client.get_trace_settings,
        lambda: client.update_trace_settings("everything", {"trace_level": ["OFF"]}),
        client.get_log_settings,
        lambda: client.update_log_settings({"log_info": False}),
        client.get_system_shared_memory_status,
        lambda: client.register_system_shared_memory("region", "/key", 8),
        client.unregister_system_shared_memory,
        client.get_cuda_shared_memory_status,
        client.unregister_cuda_shared_memory,
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "501"
        assert "is not there" in caught.value.message()
    region = triton.InferInput("numbers", [3, 3], "FP32")
    region.set_shared_memory("region", 36)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("everything", [region, *inputs(binary=True)[1:]])
    assert caught.value.status() == "501"
