"""The dock Find region in a real viewer: hits as a list and as layers, walked, kept, explained, removed."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from distributed import Client, LocalCluster
from napari.layers import Image, Shapes
from qtpy.QtCore import QEvent, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_cmrir.cli.main import main
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.base import load_model
from napari_cmrir.search.hits import as_json
from napari_cmrir.settings import ReadingSettings


@pytest.fixture
def search(find, wait_for, viewer):
    """Search, and wait until the best hit is shown."""

    def run():
        find.find()
        wait_for(lambda: not find.panel.is_running)
        wait_for(lambda: len(results(viewer)) >= 2 and not find.view.is_busy)
        return find.view.found.result

    return run


@pytest.fixture
def choose(find, wait_for, viewer):
    """Choose a hit in the list, and wait until it is shown."""

    def run(rank):
        find.view.list.choose(rank)
        wait_for(
            lambda: (
                not find.view.is_busy
                and any(layer.metadata["napari-cmrir"]["rank"] == rank for layer in results(viewer))
            )
        )
        wait_for(lambda: not find.view.is_busy)

    return run


def camera_and_canvas(viewer):
    """Give the viewer's camera and the size of its canvas, px; napari 0.9 moved them."""
    if hasattr(viewer, "scene"):
        return viewer.scene.camera, np.array(viewer.canvas.size)
    return viewer.camera, np.array(viewer._canvas_size)


def names(viewer):
    return [layer.name for layer in viewer.layers]


def results(viewer):
    return [layer for layer in viewer.layers if "rank" in layer.metadata.get("napari-cmrir", {})]


def shown(viewer):
    """The image and the match box of the hit that is shown, on top."""
    return results(viewer)[-2:]


def draw(layer, image, region):
    """Add a rectangle over pixels of the image, through napari's own conversion."""
    world = [image.data_to_world(corner) for corner in region.corners()]
    layer.add_rectangles([layer.world_to_data(point) for point in world])


def draw_ellipse(viewer, image, region):
    shapes = viewer.add_shapes(ndim=2, name="ellipse")
    world = [image.data_to_world(corner) for corner in region.corners()]
    shapes.add_ellipses([shapes.world_to_data(point) for point in world])
    return shapes


def test_a_region_is_found_listed_and_the_best_hit_shown_with_its_box(
    viewer, find, query_layer, search, wait_for
):
    find.hits.setValue(3)
    find.new_region.click()
    drawn = find.region.layer
    assert drawn.mode == "add_rectangle"
    assert viewer.layers.selection.active is drawn
    draw(drawn, query_layer, Region((60, 64), 80, 72, 12))
    result = search()

    assert names(viewer)[:2] == ["query", "Region of query"]
    image, box = viewer.layers[2:]
    best, listed = result.hits[0], find.view.list
    assert isinstance(image, Image)
    assert isinstance(box, Shapes)
    assert image.name == f"1 · {Path(best.image).name}"
    np.testing.assert_array_equal(image.data, read_image(best.image))
    assert box.features.loc[0, "rank"] == 1
    assert box.text.values[0].startswith(f"1:  {best.score:.2f}")
    np.testing.assert_allclose(image.scale, (0.5, 0.5))
    np.testing.assert_allclose(image.data_to_world((5, 6)), box.data_to_world((5, 6)))
    found = Region.from_corners(box.data[0])
    assert (found.height, found.width) == pytest.approx((80, 72), abs=1e-3)
    assert image.extent.world[0, 1] > query_layer.extent.world[1, 1]  # beside, not on it
    in_view = np.array([*drawn.extent.world[:, -2:], *map(box.data_to_world, box.data[0])])
    camera, canvas = camera_and_canvas(viewer)
    half = canvas / camera.zoom / 2
    assert (np.abs(in_view - np.array(camera.center[-2:])) < half).all()
    assert np.ptp(in_view, axis=0).max() > half.min() / 2  # and not lost in a view of everything
    for layer in (drawn, box):  # edges are as wide on the screen, whatever the pixels' size and the zoom
        assert layer.edge_width[0] * 0.5 * camera.zoom == pytest.approx(2.5, rel=0.1)

    assert listed.count() == 3
    for row, hit in enumerate(result.hits):
        text = listed.item(row).text()
        assert text.startswith(f"{hit.rank} · {Path(hit.image).name}, score {hit.score:.3f}")
        assert f"confidence {hit.confidence:.0%}" in text
        assert hit.image in listed.item(row).toolTip()
    wait_for(lambda: all(listed.item(row).data(Qt.ItemDataRole.DecorationRole) for row in range(3)))


def test_the_arrow_keys_walk_the_hits_in_the_same_two_layers(viewer, find, search, qtbot, wait_for):
    find.view.keep.setFocus()
    result = search()
    before = shown(viewer)
    for hit in result.hits[1:3]:
        qtbot.keyClick(find.view.list, Qt.Key.Key_Down)
        wait_for(lambda: shown(viewer)[0].metadata["napari-cmrir"]["rank"] == find.view.list.rank)
        wait_for(lambda: not find.view.is_busy)
        assert find.view.list.rank == hit.rank
        image, box = shown(viewer)
        assert (image, box) == tuple(before)
        np.testing.assert_array_equal(image.data, read_image(hit.image))
        np.testing.assert_allclose(box.data[0], hit.box, atol=1e-4)
        assert box.features.loc[0, "score"] == pytest.approx(hit.score)
        assert box.text.values[0].startswith(f"{hit.rank}: ")
        assert box.name == f"{image.name} · match"
    qtbot.keyClick(find.view.list, Qt.Key.Key_Up)
    assert find.view.list.rank == 2
    wait_for(lambda: shown(viewer)[0].name.startswith("2 · ") and not find.view.is_busy)


def test_a_registered_hit_lies_under_the_region(viewer, find, query_layer, search, choose):
    region = Region((60, 64), 80, 72, 12)
    find.new_region.click()
    draw(find.region.layer, query_layer, region)
    result = search()
    find.view.how.setCurrentIndex(1)
    for hit in result.hits[:2]:
        choose(hit.rank)
        image, box = shown(viewer)
        for corner, there in zip(region.corners(), hit.box, strict=True):
            expected = query_layer.data_to_world(corner)
            np.testing.assert_allclose(image.data_to_world(there), expected, atol=0.02)
            np.testing.assert_allclose(box.data_to_world(there), expected, atol=0.02)
    assert image.opacity == 0.5  # both are seen at once
    assert not box.text.visible
    find.view.blend.setValue(30)
    assert image.opacity == pytest.approx(0.3)
    find.view.how.setCurrentIndex(0)
    assert not find.view.blend.isEnabled()


def test_a_mirrored_image_is_found_and_lies_mirrored_on_the_hit(viewer, find, pairs_folder, search):
    pixels = read_image(pairs_folder / "sample-001_BF.tif")
    mirrored = viewer.add_image(pixels[:, ::-1], name="mirrored")
    find.image.choose(mirrored)
    find.region.choose(None)
    find.modality.setCurrentText("BF")
    find.mirror.setChecked(True)
    find.view.how.setCurrentIndex(1)
    hit = search().hits[0]
    assert (Path(hit.image).name, hit.mirrored) == ("sample-001_BF.tif", True)
    registered = shown(viewer)[0]
    whole = Region.whole(pixels.shape).corners()
    for corner, there, unmirrored in zip(whole, hit.box, whole[[1, 0, 3, 2]], strict=True):
        np.testing.assert_allclose(registered.data_to_world(there), mirrored.data_to_world(corner), atol=0.02)
        np.testing.assert_allclose(there, unmirrored, atol=12)  # of 128 px; the model is a poor one


def test_a_registered_hit_of_a_plane_of_a_stack_lies_on_that_plane(
    viewer, find, pairs_folder, search, wait_for
):
    stack = np.stack([read_image(pairs_folder / f"sample-00{i}_SHG.tif")[..., 0] for i in range(3)])
    image = viewer.add_image(stack, name="stack", scale=(4, 1, 1), translate=(3, 0, 0))
    find.image.choose(image)
    viewer.dims.set_point(0, 3 + 8)
    result = search()
    find.view.how.setCurrentIndex(1)
    wait_for(lambda: [layer.ndim for layer in shown(viewer)] == [3, 3] and not find.view.is_busy)
    registered, hit = shown(viewer)[0], result.hits[0]
    whole = Region.whole(stack.shape[1:]).corners()
    for corner, there in zip(whole, hit.box, strict=True):
        expected = image.data_to_world((2, *corner))
        np.testing.assert_allclose(registered.data_to_world((0, *there)), expected, atol=0.02)


def test_blinking_shows_and_hides_the_registered_hit(viewer, find, search, wait_for):
    search()
    find.view.how.setCurrentIndex(1)
    wait_for(lambda: not find.view.is_busy)
    find.view.blink.setChecked(True)
    wait_for(lambda: not shown(viewer)[0].visible)
    wait_for(lambda: shown(viewer)[0].visible)
    find.view.blink.setChecked(False)
    assert shown(viewer)[0].visible


def test_a_kept_hit_stays_when_another_is_chosen(viewer, find, search, choose, wait_for):
    search()
    kept = shown(viewer)
    find.view.keep.click()
    choose(2)
    assert len(results(viewer)) == 4
    assert [layer.metadata["napari-cmrir"]["rank"] for layer in kept] == [1, 1]
    find.view.remove.click()
    wait_for(lambda: results(viewer) == [] and not find.view.is_busy)


def test_the_explanation_lies_on_the_region(viewer, find, query_layer, search, wait_for):
    region = Region((60, 64), 80, 72, 12)
    find.new_region.click()
    draw(find.region.layer, query_layer, region)
    result = search()
    find.view.explain.click()
    wait_for(lambda: any("Agreement" in name for name in names(viewer)) and not find.view.is_busy)
    layers = {layer.name: layer for layer in viewer.layers}
    maps = [layers[name] for name in ("CoMIR of the region", "CoMIR of hit 1", "Agreement with hit 1")]
    np.testing.assert_array_equal(maps[0].data, result.comir[0])
    for layer in maps:
        corners = Region.whole(layer.data.shape).corners()
        for corner, there in zip(region.corners(), corners, strict=True):
            np.testing.assert_allclose(
                layer.data_to_world(there), query_layer.data_to_world(corner), atol=0.5
            )
    assert np.abs(maps[2].data).max() <= 1
    assert "of the region agrees" in find.panel.message.text()
    drawn = find.region.layer
    find.view.remove.click()
    wait_for(lambda: list(viewer.layers) == [query_layer, drawn] and not find.view.is_busy)


def test_no_reliable_match_is_said(viewer, find, search, wait_for):
    rng = np.random.default_rng(0)
    noise = viewer.add_image(rng.integers(0, 4000, (100, 100), dtype=np.uint16), name="noise")
    find.image.choose(noise)
    result = search()
    assert result.hits[0].confidence < 0.5
    assert not find.view.verdict.isHidden()
    assert "No reliable match" in find.view.verdict.text()
    assert "Not tried: rotations beyond 30°, the mirrored region, other sizes." in find.view.verdict.text()
    QTest.mouseClick(find.view.wider, Qt.MouseButton.LeftButton)
    wait_for(lambda: find.view.found.query.mirror and not find.panel.is_running)
    assert (find.rotation.value(), find.mirror.isChecked()) == (180, True)
    assert find.view.found.query.settings.max_rotation == 180
    assert "Not tried: other sizes." in find.view.verdict.text()
    assert find.view.wider.isHidden()
    find.view.remove.click()
    assert find.view.verdict.isHidden()


def test_remove_results_removes_what_was_added_and_nothing_else(
    viewer, find, query_layer, search, choose, wait_for
):
    mine = viewer.add_shapes([[[0, 0], [9, 9]]], name="1 · mine.tif")
    find.region.choose(None)
    search()
    choose(2)
    image, box = shown(viewer)
    assert not mine.visible  # it would lie on the hit or on the query
    find.new_region.click()
    image.name = "renamed by the user"
    viewer.layers.remove(box)
    drawn = find.region.layer
    find.view.remove.click()
    wait_for(lambda: not find.view.is_busy)
    assert list(viewer.layers) == [query_layer, mine, drawn]
    assert mine.visible
    assert query_layer.visible
    assert find.view.list.count() == 0


def test_a_hit_whose_layers_the_user_removed_is_shown_anew(viewer, find, search, choose):
    search()
    for layer in shown(viewer):
        viewer.layers.remove(layer)
    choose(2)
    assert [layer.metadata["napari-cmrir"]["rank"] for layer in results(viewer)] == [2, 2]


def test_another_search_replaces_the_hits_and_keeps_the_region(viewer, find, query_layer, search):
    find.hits.setValue(1)
    find.new_region.click()
    draw(find.region.layer, query_layer, Region((60, 64), 80, 72, 0))
    for _ in range(2):
        search()
        assert names(viewer)[:2] == ["query", "Region of query"]
        assert len(viewer.layers) == 4


def test_the_hits_of_another_search_are_shown_in_the_layers_that_are_there(
    viewer, find, query_layer, search, choose, wait_for
):
    search()
    first = shown(viewer)
    choose(2)
    find.view.keep.click()
    choose(1)
    find.view.explain.click()
    wait_for(lambda: any("Agreement" in name for name in names(viewer)) and not find.view.is_busy)
    second = [layer for layer in results(viewer)[2:] if "rank" in layer.metadata["napari-cmrir"]]
    find.find()
    wait_for(lambda: not find.panel.is_running and len(viewer.layers) == 3 and not find.view.is_busy)
    assert first[0] not in viewer.layers
    assert list(viewer.layers) == [query_layer, *second]
    assert all(layer.visible for layer in viewer.layers)
    find.hits.setValue(1)
    other = viewer.add_image(query_layer.data, name="no units")
    find.image.choose(other)
    find.find()
    wait_for(lambda: not find.panel.is_running and second[0] not in viewer.layers and not find.view.is_busy)
    assert {layer.units for layer in shown(viewer)} == {other.units}


def test_an_unknown_pixel_size_is_said_in_the_dock_and_in_no_notification(
    viewer, find, query_layer, search, notifications
):
    search()  # the images searched have none, the query has
    assert "The pixel size of the searched images is unknown" in find.assumed.text()
    assert not find.assumed.isHidden()
    find.image.choose(viewer.add_image(query_layer.data, name="other"))
    assert find.assumed.isHidden()
    search()  # neither has
    assert find.assumed.isHidden()
    assert not any("pixel size" in message for _, message in notifications)


def test_how_to_give_the_pixel_size_is_said_and_works(
    viewer, dock, pairs_folder, model_path, tmp_path, wait_for, notifications
):
    images = write_sample_folder(tmp_path / "sized", range(2), 128)
    repository = tmp_path / "sized.cmrir"
    settings = RepositorySettings(reading=ReadingSettings(pixel_size=0.5))
    paths = [pair.paths[1] for pair in images]
    run(build_repository(paths, load_model(model_path), "BF", repository, settings)).close()
    find = dock(FindWidget)
    image = viewer.add_image(read_image(images[0].paths[0])[..., 0], name="it's mine")
    find.repository.set_paths(repository)
    wait_for(lambda: find.modality.count() == 2)
    find.find()
    wait_for(lambda: not find.panel.is_running and not find.view.is_busy)
    assert "The pixel size of the region's image is unknown" in find.assumed.text()
    hint = find.assumed.text().partition("In the console: ")[2]
    exec(hint, {"viewer": viewer})
    assert (image.scale.tolist(), str(image.units[0])) == ([0.5, 0.5], "micrometer")
    find.find()
    wait_for(lambda: not find.panel.is_running and not find.view.is_busy)
    assert find.assumed.isHidden()
    assert not any("pixel size" in message for _, message in notifications)


def test_an_ellipse_is_searched_with_what_lies_in_it(viewer, find, query_layer, search):
    find.region.choose(draw_ellipse(viewer, query_layer, Region((60, 64), 80, 72, 0)))
    find.hits.setValue(1)
    search()
    box = shown(viewer)[1]
    found = Region.from_corners(box.data[0])
    assert (found.height, found.width) == pytest.approx((80, 72), abs=2)
    assert box.shape_type == ["ellipse"]


def test_a_plane_of_a_stack_with_a_layer_that_goes_meanwhile(viewer, find, pairs_folder, wait_for):
    stack = np.stack([read_image(pairs_folder / f"sample-00{i}_SHG.tif")[..., 0] for i in range(3)])
    image = viewer.add_image(stack, name="stack", scale=(4, 1, 1))
    find.image.choose(image)
    viewer.dims.set_point(0, 8)
    find.find()
    viewer.layers.remove(image)
    viewer.layers["query"].name = "another name"
    wait_for(lambda: find.view.list.count() == 4)
    wait_for(lambda: len(results(viewer)) == 2 and not find.view.is_busy)
    assert [find.image.itemText(i) for i in range(find.image.count())] == ["another name"]


def test_a_search_can_be_cancelled(viewer, find, query_layer, wait_for):
    find.find()
    find.panel.stop_button.click()
    wait_for(lambda: not find.panel.is_running)
    assert list(viewer.layers) == [query_layer]
    assert find.view.list.count() == 0


def test_the_key_finds_and_is_given_back(viewer, find, wait_for, qtbot):
    assert "Shift-F" in find.panel.start_button.toolTip()
    (action,) = [action for key, action in viewer.keymap.items() if str(key) == "Shift+F"]
    action(viewer)
    assert find.panel.is_running
    wait_for(lambda: find.view.list.count() == 4)
    wait_for(lambda: len(results(viewer)) == 2 and not find.view.is_busy)
    viewer.window.remove_dock_widget(find)
    assert [key for key in viewer.keymap if str(key) == "Shift+F"] == []
    with qtbot.waitSignal(find.destroyed):  # napari has only taken it out of its dock
        find.deleteLater()


def test_choices_come_back_the_next_time(dock, find, repository_path, wait_for):
    find.hits.setValue(7)
    find.rotation.setValue(90)
    find.mirror.setChecked(True)
    find.view.how.setCurrentIndex(1)
    again = dock(FindWidget)
    wait_for(lambda: again.repository.path == repository_path and again.hits.value() == 7)
    assert (again.hits.value(), again.rotation.value(), again.view.how.currentIndex()) == (7, 90, 1)
    assert again.mirror.isChecked()


def test_exports_hold_the_hits(find, query_layer, search, tmp_path, wait_for):
    find.new_region.click()
    draw(find.region.layer, query_layer, Region((60, 64), 80, 72, 12))
    result = search()
    for kind, name in (
        ("csv", "a.csv"),
        ("json", "a.json"),
        ("geojson", "a.geojson"),
        ("itk", "a.tfm"),
        ("crop", "a.ome.tif"),
    ):
        find.view.export.export(kind, tmp_path / name)
        wait_for(lambda name=name: find.panel.message.text() == f"Written: {tmp_path / name}")
    table = (tmp_path / "a.csv").read_text().splitlines()
    assert table[0].startswith("query,rank,image,score,")
    assert len(table) == 1 + len(result.hits)
    (answer,) = json.loads((tmp_path / "a.json").read_text())["queries"]
    assert [hit["image"] for hit in answer["hits"]] == [hit.image for hit in result.hits]
    ring = json.loads((tmp_path / "a.geojson").read_text())["features"][0]["geometry"]["coordinates"][0]
    assert {tuple(point) for point in np.round(np.array(ring)[:, ::-1] - 0.5, 1)} == {
        tuple(point) for point in np.round(result.hits[0].box, 1)
    }
    assert (tmp_path / "a.tfm").read_text().startswith("#Insight Transform File")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.is_ome
        assert [series.shape for series in file.series] == [(80, 72, 3), (80, 72)]
        assert 'PhysicalSizeX="0.5"' in file.ome_metadata


def test_an_export_that_cannot_be_written_is_a_notification(find, search, tmp_path, wait_for, notifications):
    search()
    notifications.clear()  # of the search
    (tmp_path / "file").touch()
    exports = [("csv", tmp_path / "file" / "a.csv", "File exists")]
    if Path("/dev/full").exists():
        exports.append(("crop", Path("/dev/full"), "No space left on device"))
    for number, (kind, path, reason) in enumerate(exports, 1):
        find.view.export.export(kind, path)
        wait_for(lambda number=number: len(notifications) == number)
        assert notifications[-1] == ("error", f"{path} cannot be written ({reason}); choose another place.")


def test_a_large_image_is_read_with_levels(tmp_path):
    from napari_cmrir.napari.pictures import read_picture

    pixels = np.zeros((2000, 5000), np.uint8)
    pixels[:, 2500:] = 200
    tifffile.imwrite(tmp_path / "large.tif", pixels)
    picture = read_picture(str(tmp_path / "large.tif"))
    assert [level.shape for level in picture.levels] == [(2000, 5000), (1000, 2500), (500, 1250), (250, 625)]
    assert picture.levels[-1][:, 320:].min() == 200


def test_a_hit_whose_file_is_gone_keeps_its_row(viewer, dock, model_path, tmp_path, wait_for, notifications):
    pairs = write_sample_folder(tmp_path / "moved", range(2), 128)
    path = tmp_path / "moved.cmrir"
    run(build_repository([tmp_path / "moved"], load_model(model_path), "BF", path)).close()
    viewer.add_image(read_image(pairs[0].paths[0])[..., 0], name="query")
    pairs[1].paths[1].unlink()
    find = dock(FindWidget)
    find.repository.set_paths(path)
    wait_for(lambda: find.modality.count() == 2)
    find.find()
    wait_for(lambda: find.view.list.count() == 2 and notifications)
    assert [severity for severity, _ in notifications] == ["warning"]
    gone = next(hit for hit in find.view.found.result.hits if "sample-001" in hit.image)
    find.view.list.choose(gone.rank)
    wait_for(lambda: "cannot be shown" in find.panel.message.text())
    assert find.view.list.count() == 2


def refusal_without_repository(find, viewer, tmp_path):
    find.repository.line.clear()


def refusal_not_a_repository(find, viewer, tmp_path):
    find.repository.set_paths(tmp_path)


def refusal_small_region(find, viewer, tmp_path):
    find.new_region.click()
    draw(find.region.layer, viewer.layers["query"], Region((60, 60), 20, 20))


def refusal_region_outside(find, viewer, tmp_path):
    find.new_region.click()
    draw(find.region.layer, viewer.layers["query"], Region((600, 60), 50, 50))


def refusal_empty_region_layer(find, viewer, tmp_path):
    find.new_region.click()


def refusal_wrong_channels(find, viewer, tmp_path):
    colour = read_image(Path(find.repository.path).parent / "pairs" / "sample-001_BF.tif")
    viewer.add_image(colour, name="colour", rgb=True, units=("um", "um"))
    find.image.choose(viewer.layers["colour"])
    assert find.modality.currentText() == "BF"  # proposed, as it has its channels
    find.modality.setCurrentText("SHG")


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (refusal_without_repository, "No repository is chosen"),
        (refusal_not_a_repository, "not a repository"),
        (refusal_small_region, "32"),
        (refusal_region_outside, "outside the image"),
        (refusal_empty_region_layer, "holds no region yet"),
        (refusal_wrong_channels, "channel"),
    ],
)
def test_a_search_that_is_refused_is_one_notification(
    viewer, find, wait_for, notifications, tmp_path, prepare, sentence
):
    prepare(find, viewer, tmp_path)
    before = names(viewer)
    find.find()
    wait_for(lambda: not find.panel.is_running)
    assert len(notifications) == 1
    assert notifications[0][0] == "error"
    assert sentence in notifications[0][1]
    assert names(viewer) == before


@pytest.fixture
def copied(find, wait_for):
    """Copy the search, as the menu does."""

    def copy(language):
        texts = []
        find.copy.copied.connect(texts.append)
        find.copy.copy(language)
        wait_for(lambda: texts)
        find.copy.copied.disconnect(texts.append)
        assert QApplication.clipboard().text() == texts[0]
        return texts[0]

    return copy


def draw_nothing(find, viewer, image):
    find.region.choose(None)


def draw_upright(find, viewer, image):
    shapes = viewer.add_shapes(ndim=2, name="upright", rotate=30, scale=(0.5, 0.5), translate=(1000, 2000))
    shapes.add_rectangles([Region.from_rectangle(20, 30, 64, 80).corners()])
    find.region.choose(shapes)


def draw_turned(find, viewer, image):
    find.new_region.click()
    draw(find.region.layer, image, Region((60, 64), 80, 72, 12))


def draw_an_ellipse(find, viewer, image):
    find.region.choose(draw_ellipse(viewer, image, Region((60, 64), 90, 80, 5)))


def mirror_it(find, viewer, image):
    draw_turned(find, viewer, image)
    find.mirror.setChecked(True)


def take_an_unsaved_plane(find, viewer, image):
    stack = viewer.add_image(np.stack([image.data[::-1], image.data]), name="stack")
    find.image.choose(stack)
    viewer.dims.set_point(0, 1)


@pytest.mark.parametrize(
    "prepare",
    [draw_nothing, draw_upright, draw_turned, draw_an_ellipse, mirror_it, take_an_unsaved_plane],
)
def test_the_copied_command_and_python_give_the_same_hits(
    viewer, find, query_layer, search, copied, tmp_path, monkeypatch, wait_for, prepare
):
    monkeypatch.setattr("napari_cmrir.napari.find_dock.kept_folder", lambda: tmp_path / "kept")
    prepare(find, viewer, query_layer)
    find.hits.setValue(3)
    search()
    find.view.export.export("json", tmp_path / "widget.json")
    wait_for(lambda: "widget.json" in find.panel.message.text())
    (expected,) = answers(tmp_path / "widget.json")

    program, *arguments = shlex.split(copied("command"))
    assert program == "napari-cmrir"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    (by_command,) = answers(tmp_path / "hits.json")

    script = tmp_path / "search.py"
    script.write_text(copied("python"))
    scope = {}
    exec(compile(script.read_text(), script, "exec"), scope)
    (tmp_path / "api.json").write_text(as_json([(by_command["image"], scope["result"])]))
    (by_api,) = answers(tmp_path / "api.json")
    assert by_api == by_command
    if prepare is take_an_unsaved_plane:  # which only a copy of it in a file can stand for
        assert (expected.pop("image"), Path(by_command.pop("image")).parent) == ("stack", tmp_path / "kept")
    assert by_command == expected


def test_the_scheduler_of_the_preferences_lets_its_workers_search(
    viewer, find, query_layer, search, copied, monkeypatch
):
    draw_turned(find, viewer, query_layer)
    search()
    here = [(hit.image, round(hit.score, 5)) for hit in find.view.found.result.hits]
    with LocalCluster(n_workers=1, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL") as cluster:
        address = cluster.scheduler_address
        preferences = {"scheduler": address}
        monkeypatch.setattr("napari_cmrir.napari.find_dock.default", preferences.get)
        search()
        there = [(hit.image, round(hit.score, 5)) for hit in find.view.found.result.hits]
        with Client(address, set_as_default=False) as client:
            loaded = client.run(eval, "'napari_cmrir.search.rerankers' in __import__('sys').modules")
        assert list(loaded.values()) == [True]
        assert f"--scheduler {address}" in copied("command")
        assert f"scheduler='{address}'" in copied("python")
    assert there == here


def test_a_matcher_of_the_preferences_that_is_not_there_is_told_and_keeps_the_hits(
    viewer, find, query_layer, search, copied, monkeypatch, notifications, wait_for
):
    draw_turned(find, viewer, query_layer)
    search()
    before = find.view.found.result.hits
    monkeypatch.setattr("napari_cmrir.napari.find_dock.default", {"matcher": "last"}.get)
    find.find()
    told = "There is no matcher 'last'; choose one of vismatch"
    wait_for(lambda: any(told in message for _, message in notifications))
    assert find.view.found.result.hits is before
    assert "--matcher last" in copied("command")
    assert "matcher='last'" in copied("python")
    assert "match-on" not in copied("command")


def answers(path):
    """What a file of hits holds, but how long it took."""
    queries = json.loads(path.read_text())["queries"]
    for query in queries:
        assert query.pop("seconds") > 0
    return queries


def test_a_search_of_three_copies_is_equally_sure_of_each_and_names_them(
    viewer, dock, pairs_folder, model_path, tmp_path, wait_for, notifications
):
    folder = tmp_path / "copies"
    folder.mkdir()
    for number in range(4):
        pixels = read_image(pairs_folder / f"sample-00{number}_BF.tif")
        tifffile.imwrite(folder / f"tissue-{number}.tif", pixels, photometric="rgb")
    pixels = read_image(pairs_folder / "sample-001_BF.tif")
    for name in ("copy.tif", "another.tif"):
        tifffile.imwrite(folder / name, pixels, photometric="rgb", compression="zlib")
    path = tmp_path / "copies.cmrir"
    run(build_repository([folder], load_model(model_path), "BF", path)).close()
    # the BF image itself as the query, in the range 0 to 1: the same pixels in other numbers
    viewer.add_image(pixels / 255, name="BF as float", rgb=True)
    find = dock(FindWidget)
    find.repository.set_paths(path)
    wait_for(lambda: find.modality.currentText() == "BF")
    find.find()
    wait_for(lambda: find.view.list.count() == 5)
    *copies, other = find.view.found.result.hits[:4]
    assert {Path(hit.image).name for hit in copies} == {"copy.tif", "another.tif", "tissue-1.tif"}
    assert [hit.confidence for hit in copies] == pytest.approx([copies[0].confidence] * 3, abs=0.01)
    assert other.confidence < copies[0].confidence
    assert any("Hits 1, 2 and 3 are copies of one image." in message for _, message in notifications)


def test_a_shape_of_naparis_own_tools_is_the_region_and_the_dock_says_so(viewer, find, query_layer, wait_for):
    assert find.region.layer is None
    shapes = viewer.add_shapes(ndim=2, name="mine", scale=(0.5, 0.5), translate=(1000, 2000), rotate=30)
    assert find.region.layer is shapes
    shapes.add_ellipses([Region.from_rectangle(20, 30, 64, 80).corners()])
    wait_for(lambda: find.what.text() == "Searches 80 x 64 px of query (ellipse)")
    lines = viewer.add_shapes([[[0, 0], [9, 9]]], shape_type="line", name="no region")
    assert find.region.layer is shapes  # a line encloses nothing
    viewer.layers.remove(lines)
    find.region.choose(None)
    wait_for(lambda: find.what.text() == "Searches 128 x 128 px of query (the whole image)")
    find.view.list.set_hint("")
    viewer.layers.remove(query_layer)
    wait_for(lambda: find.view.list._hint.startswith("Open the image"))
    find.repository.line.clear()
    assert "Ready to search" in find.view.list._hint  # what comes next, for who has nothing yet


def test_image_and_modality_are_proposed_by_names_and_channels(viewer, find, pairs_folder):
    bf, shg = (read_image(pairs_folder / f"sample-001_{name}.tif") for name in ("BF", "SHG"))
    image = viewer.add_image(bf, name="slide", rgb=True, units=("um", "um"))
    assert find.image.layer.name == "query"  # the repository holds BF: an image of SHG is the query
    find.image.choose(image)
    assert find.modality.currentText() == "BF"  # it has three channels
    find.image.choose(viewer.add_image(shg[..., 0], name="1B_A1_SHG", units=("um", "um")))
    assert find.modality.currentText() == "SHG"
    find.modality.setCurrentText("BF")
    viewer.add_image(bf[..., 0], name="a BF", units=("um", "um"))
    assert find.modality.currentText() == "BF"  # what the user has chosen stays


def test_the_explanation_of_a_hit_goes_with_it_and_a_new_region_shows_the_query_alone(
    viewer, find, query_layer, search, choose, wait_for
):
    search()
    find.view.explain.click()
    wait_for(lambda: any("Agreement" in name for name in names(viewer)) and not find.view.is_busy)
    choose(2)
    assert not any("Agreement" in name or "CoMIR" in name for name in names(viewer))
    find.new_region.click()
    assert [layer.name for layer in viewer.layers if layer.visible] == ["query", "Region of query"]
    assert viewer.layers.selection.active.mode == "add_rectangle"
    before = find.view.found
    draw(find.region.layer, query_layer, Region((60, 64), 80, 72, 12))  # is searched without Find
    wait_for(lambda: find.view.found is not before and len(viewer.layers) == 4)
    wait_for(lambda: all(layer.visible for layer in viewer.layers) and not find.view.is_busy)
    find.view.added.toggle_whole()  # Shift-Z
    camera, canvas = camera_and_canvas(viewer)
    everything = np.vstack([layer.extent.world[:, -2:] for layer in viewer.layers])
    assert (np.abs(everything - camera.center[-2:]) <= canvas / camera.zoom / 2).all()


def test_a_reliable_looking_hit_of_a_blank_region_is_explained(find, search):
    result = search()
    hits = tuple(replace(hit, confidence=1.0) for hit in result.hits)
    find.view._show_verdict(replace(find.view.found, result=replace(result, hits=hits, reliable=False)))
    assert "so little contrast" in find.view.verdict.text()
    assert "100" not in find.view.verdict.text()


def test_a_dock_that_is_opened_again_removes_what_the_closed_one_has_left(
    viewer, find, query_layer, search, dock, wait_for
):
    other = viewer.add_image(np.zeros((8, 8)), name="other")
    find.image.choose(query_layer)
    search()
    find.view.keep.click()
    wait_for(lambda: not find.view.is_busy)
    assert not other.visible
    frame = find.parent()
    while not isinstance(frame, QDockWidget):
        frame = frame.parent()
    frame.destroyOnClose()  # as its button does
    again = dock(FindWidget)
    again.view.remove.click()
    wait_for(lambda: not again.view.is_busy)
    assert not shown(viewer)
    assert other.visible
    find.deleteLater()  # its button drops it; here the fixture holds it
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
