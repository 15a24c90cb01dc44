"""Subgraph blueprints: served to the editor, written from their description, run as the editor expands them."""

import json

import pytest

from support.interop import Bench
from support.interop_models import V3
from support.pack import ROOT
from support.videos import assert_shows, read_video, saved_files
from tools import comfyui
from tools.workflows import blueprints, client, tiny
from tools.workflows.author import node

FOLDER = ROOT / "subgraphs"
BLUEPRINTS = {made.inside.name: made for made in (make() for make in blueprints.BLUEPRINTS)}
TEXT_TO_VIDEO, IMAGE_TO_VIDEO = BLUEPRINTS
AUTHORED_ON = "0.3.75"
STEPS = 8
GREEN = {"positive": "a green square goes down on a black background"}

every_blueprint = pytest.mark.parametrize("name", BLUEPRINTS)


@pytest.fixture(scope="module")
def bench(server):
    tiny.bring_inputs(comfyui.BASE)
    return Bench(server, V3)


def expanded(bench: Bench, name: str, **given) -> dict:
    """The prompt that the editor makes of a blueprint that feeds Save Video; `given` are values and links."""
    saved = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (placed,), (inside,) = saved["nodes"], saved["definitions"]["subgraphs"]
    assert placed["type"] == inside["id"]
    asked = [link for link in inside["links"] if link["origin_id"] == blueprints.ASKED]
    links = [list(link.values()) for link in inside["links"] if link not in asked]
    for inner in inside["nodes"]:
        for socket in inner["inputs"]:
            socket["link"] = None if socket["link"] in [link["id"] for link in asked] else socket["link"]
    prompt = client.as_prompt({"nodes": inside["nodes"], "links": links}, bench.object_info)
    named = [socket["name"] for socket in placed["inputs"] if "widget" in socket]
    given = dict(zip(named, placed["widgets_values"], strict=True)) | given
    for link in asked:
        socket = placed["inputs"][link["origin_slot"]]["name"]
        inner = next(inner for inner in inside["nodes"] if inner["id"] == link["target_id"])
        if socket in given:
            prompt[str(inner["id"])]["inputs"][inner["inputs"][link["target_slot"]]["name"]] = given.pop(socket)
    (out,) = [link for link in inside["links"] if link["target_id"] == blueprints.GIVEN]
    assert not given and out["type"] == placed["outputs"][0]["type"] == "VIDEO"
    video = [str(out["origin_id"]), out["origin_slot"]]
    return {**prompt, "save": node("SaveVideo", video=video, filename_prefix="tests/blueprint")}


def made(bench: Bench, prompt: dict):
    (file,) = saved_files(client.run(bench.port, bench.filled(prompt)))
    return read_video(file)


def test_the_server_offers_them_to_the_editor(bench):
    offered = client.get(bench.port, "/global_subgraphs")
    ours = {
        id_: entry for id_, entry in offered.items() if entry["info"]["node_pack"] == f"custom_nodes.{comfyui.PACK}"
    }
    assert sorted(entry["name"] for entry in ours.values()) == sorted(BLUEPRINTS)
    for id_, entry in ours.items():
        data = client.get(bench.port, f"/global_subgraphs/{id_}")["data"]
        assert data == (FOLDER / f"{entry['name']}.json").read_text(encoding="utf-8")


@every_blueprint
def test_a_blueprint_is_what_its_description_writes(bench, name):
    if bench.version != AUTHORED_ON:
        pytest.skip(f"written on {AUTHORED_ON}")
    committed = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert blueprints.as_text(BLUEPRINTS[name], bench.object_info) == committed, "run `python3 dev.py workflows`"


@every_blueprint
def test_as_placed_it_runs_on_the_built_in_model(bench, name):
    video = made(bench, expanded(bench, name, steps=STEPS))
    assert_shows(video, "red", "left")


def test_what_is_typed_into_the_node_reaches_the_nodes_inside(bench):
    video = made(bench, expanded(bench, TEXT_TO_VIDEO, **GREEN, steps=STEPS, length=16))
    assert_shows(video, "green", "down", frames=16)


def test_an_image_connected_to_it_is_where_the_video_starts(bench):
    prompt = expanded(bench, IMAGE_TO_VIDEO, start_image=["start", 0], steps=STEPS)
    video = made(bench, {**prompt, "start": node("LoadImage", image="easyanimate/start.png")})
    assert_shows(video, "red", "left")
    without = made(bench, expanded(bench, IMAGE_TO_VIDEO, steps=STEPS))
    assert (video[0] - without[0]).abs().mean() > 0.01


@every_blueprint
def test_every_link_inside_fits_at_both_ends(name):
    (inside,) = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    nodes = {inner["id"]: inner for inner in inside["nodes"]}
    nodes[blueprints.ASKED] = {"outputs": [{**given, "links": given["linkIds"]} for given in inside["inputs"]]}
    nodes[blueprints.GIVEN] = {"inputs": [{**given, "link": given["linkIds"][0]} for given in inside["outputs"]]}
    for link in inside["links"]:
        source = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
        target = nodes[link["target_id"]]["inputs"][link["target_slot"]]
        assert link["id"] in source["links"] and target["link"] == link["id"]
        assert source["type"] == target["type"] == link["type"]
    ends = [given["link"] for node_ in nodes.values() for given in node_.get("inputs", []) if given["link"]]
    assert sorted(ends) == sorted(link["id"] for link in inside["links"])
