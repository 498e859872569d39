r"""The walk shows what the model decodes where one stands."""

from functools import partial

import torch

from minillm.course.scenes import latent_walk
from minillm.course.widgets import Explorer
from minillm.detours import moons
from minillm.detours.autoencoder import MoonCoder


def test_the_picture_is_decoded_at_the_cross(fresh_seed: int):
    generator = torch.Generator().manual_seed(fresh_seed)
    coders = {"one": MoonCoder(256, generator=generator), "two": MoonCoder(256, generator=generator)}
    draw = partial(latent_walk.walk_picture, coders, torch.linspace(0, 1, 12))
    explorer = Explorer(draw, "A plane, a picture and the nearest moon", **latent_walk.walk_controls(coders, 0.5))
    assert {name: control.value for name, control in explorer.controls.items()} == {
        "model": "two", "first": 0.5, "second": 0.0
    }  # fmt: skip
    plane, picture, truth = draw(model="one", first=-1.0, second=0.5).axes
    with torch.no_grad():
        decoded = coders["one"].decode(torch.tensor([[-1.0, 0.5]]))
    assert torch.equal(torch.tensor(picture.images[0].get_array()).flatten(), decoded[0])
    distance, phase = moons.nearest_moon(decoded)
    assert f"{float(distance):.1f} away" in picture.get_title() and "no moon" in picture.get_title()
    assert f"{float(phase):.2f}" in truth.get_title()
    assert [line.get_xydata().tolist() for line in plane.lines] == [[[-1.0, 0.5]]]
