"""The model card grows with the run: samples while training, figures once measured; a card of one's own is kept."""

from contract.conftest import plan
from limner import hub
from limner.metrics.evaluate import evaluate
from limner.training.run import resume, start


def test_card_has_samples_and_figures_and_travels(tmp_path):
    run = start(plan("vae", images=640, batch=32), tmp_path / "run", quiet=True)
    card = (run.path / "README.md").read_text()
    assert "![samples](samples/000000640.png)" in card
    assert "## Figures" not in card
    evaluate(run.path, n=32, metrics=["bits_per_dim"])
    card = (run.path / "README.md").read_text()
    assert "| bits_per_dim |" in card
    assert "32 held-out images" in card
    hub.load(run.path).save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "![samples](samples.png)" in card
    assert (tmp_path / "out" / "samples.png").is_file()
    assert "| bits_per_dim |" in card


def test_a_card_of_ones_own_is_kept(tmp_path):
    run = start(plan("ae", images=320, batch=32), tmp_path, quiet=True)
    (run.path / "README.md").write_text("# Mine\n")
    resume(tmp_path, images=640, quiet=True)
    assert (run.path / "README.md").read_text() == "# Mine\n"
