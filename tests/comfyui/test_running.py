"""A ComfyUI that has been running for a while: what it keeps, reads again, stops, shows and forgets."""

import json
import shutil
import time

import pytest
from live import Graph, difference, sampled

pytestmark = pytest.mark.comfyui

TOLERANCE = 2  # of 255


@pytest.fixture
def folder(server):
    return server.base / "models" / "checkpoints"


def offered(server):
    names, _ = server.get("/object_info/SD2CheckpointLoader")["SD2CheckpointLoader"]["input"]["required"]["ckpt_name"]
    return names


def queued(server, **values):
    graph = Graph()
    sampled(graph, *graph.load("v2-base.safetensors"), **values)
    return graph, server.queue(graph)


def test_cancel_stops_within_a_step_and_the_next_run_works(server):
    graph = Graph()
    sampled(graph, *graph.load("v2-base.safetensors"), steps=1000)
    prompt_id = server.queue(graph)
    time.sleep(3)
    asked = time.monotonic()
    server.post("/interrupt", {})
    entry = server.wait(prompt_id)
    assert time.monotonic() - asked < 3  # some steps of this model, on a busy machine
    assert "execution_interrupted" in dict(entry["status"]["messages"])
    graph = Graph()
    saved = sampled(graph, *graph.load("v2-base.safetensors"), seed=9)
    assert saved in server.run(graph)


def test_a_new_file_is_offered_at_once(server, folder):
    assert "late.safetensors" not in offered(server)
    shutil.copy(folder / "v2-base.safetensors", folder / "late.safetensors")
    assert "late.safetensors" in offered(server)


def test_a_folder_of_extra_model_paths_is_offered_and_read(server, folder):
    shutil.copy(folder / "v2-v.safetensors", server.elsewhere / "far-away.safetensors")
    assert "far-away.safetensors" in offered(server)
    graph = Graph()
    far, near = (sampled(graph, *graph.load(f"{name}.safetensors")) for name in ("far-away", "v2-v"))
    pictures = server.run(graph)
    assert difference(pictures[far], pictures[near]) == 0


def test_progress_and_previews_are_sent_while_sampling(server):
    websocket = pytest.importorskip("websocket", reason="websocket-client comes with comfy-cli")
    client = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId=watcher", timeout=60)
    graph = Graph()
    sampled(graph, *graph.load("v2-base.safetensors"), seed=77, steps=6)
    prompt_id = server.post("/prompt", {"prompt": graph, "client_id": "watcher"})["prompt_id"]
    done, previews = [], 0
    while True:
        message = client.recv()
        if isinstance(message, bytes):
            previews += 1
            continue
        message = json.loads(message)
        if message["type"] == "progress":
            done.append((message["data"]["value"], message["data"]["max"]))
        if message["type"] == "executing" and message["data"] == {"node": None, "prompt_id": prompt_id}:
            break
    client.close()
    assert done[-1] == (6, 6)
    assert previews >= 1


def test_a_replaced_file_is_read_again(server, folder):
    shutil.copy(folder / "v2-base.safetensors", folder / "mine.safetensors")
    graph = Graph()
    saved = sampled(graph, *graph.load("mine.safetensors"))
    first = server.run(graph)[saved]
    shutil.copy(folder / "v2-v.safetensors", folder / "new.safetensors")
    (folder / "new.safetensors").replace(folder / "mine.safetensors")
    assert difference(server.run(graph)[saved], first) > TOLERANCE


def test_ten_queued_seeds_load_and_encode_nothing_again(server):
    _, warm = queued(server, seed=100)
    server.wait(warm)
    loads = server.log.read_text().count("Requested to load")
    for graph, prompt_id in [queued(server, seed=101 + number) for number in range(10)]:
        messages = dict(server.wait(prompt_id)["status"]["messages"])
        ran = {node["class_type"] for name, node in graph.items() if name not in messages["execution_cached"]["nodes"]}
        assert ran == {"SD2KSampler", "VAEDecode", "SaveImage"}
    assert server.log.read_text().count("Requested to load") == loads


def test_checkpoints_in_turn_do_not_pile_up(server, folder):
    sizes = []
    for number in range(10):
        shutil.copy(folder / "v2-base.safetensors", folder / f"copy-{number}.safetensors")
        graph = Graph()
        sampled(graph, *graph.load(f"copy-{number}.safetensors"), steps=1, seed=number)
        server.run(graph)
        sizes.append(server.memory())
    one = (folder / "v2-base.safetensors").stat().st_size
    assert sizes[9] - sizes[3] < 2 * one
