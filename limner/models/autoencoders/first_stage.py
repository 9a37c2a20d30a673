"""What the first stages of latent generative models have in common: ResNet encoder and decoder, and the losses they are trained by.

Esser, Rombach & Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis" (VQGAN), section 3.1; Rombach et al. 2022,
"High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1 and appendix G. An image is to come back *looking* the same from
a map of vectors f times smaller a side. A pixel error alone blurs what it cannot know, so two more losses judge the copy y of x:

    L_rec = |x - y| + perceptual LPIPS(x, y)                    means over pixels; the first squared with reconstruction="l2"
    L_GAN = -E D(y)                                             D judges patches (`limner.nn.patch_discriminator`)
    loss  = L_rec + adversarial lambda L_GAN + L_reg            lambda = ||grad L_rec|| / ||grad L_GAN||, equation 7 of VQGAN
    D descends   E max(0, 1 - D(x)) + E max(0, 1 + D(y))        both from the images before the step

L_reg is what makes a map of vectors easy to model: a slight KL term (`kl_ae`) or codes (`vqgan`). The game begins after `adversarial_start`
images, when the copies are good enough to be judged by their texture.

**LPIPS** compares activations of a network that was trained on photographs and does not come with limner. The presets that use it end in
"-lpips" and say what to install if it is not there; the others have perceptual="none", train anywhere, and are less than the papers' loss.

Deviations: Adam's learning rate falls to zero on a cosine; one copy y serves both players' updates of a step (the authors' programs
compute it twice); the hinge loss is not halved; the discriminator's batch normalisation keeps no running statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.adversarial import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss
from limner.losses.perceptual import perceptual_loss
from limner.model import Model, Update
from limner.nn.patch_discriminator import PatchDiscriminator
from limner.nn.resnet_stacks import MapDecoder, MapEncoder

PERCEPTUAL = {"lpips-vgg": "vgg", "lpips-alex": "alex"}
BETAS = (0.5, 0.9)
"""Adam's, for both players; those of the authors' programs."""


@config
class FirstStageConfig(ImageConfig):
    """Networks and losses of a first stage."""

    width: Positive = 32
    """Channels of the feature maps, times `multipliers`; a multiple of 8."""
    multipliers: tuple[Positive, ...] = (1, 2, 2)
    """Of `width`, at each resolution from the image's down: three make the map 4 times smaller a side."""
    blocks: Positive = 1
    """ResNet blocks of the encoder at each resolution; the decoder has one more."""
    attention: bool = True
    """Self-attention between the places of the smallest map."""
    reconstruction: Literal["l1", "l2"] = "l1"
    """Error of a pixel: absolute or squared."""
    perceptual: Literal["none", "lpips-alex", "lpips-vgg"] = "none"
    """Network of the perceptual loss, whose weights must be installed; on a CPU AlexNet's takes a fifth of VGG's time."""
    perceptual_weight: NonNegativeFloat = 1.0
    """Weight of the perceptual loss."""
    adversarial: NonNegativeFloat = 0.5
    """Weight of the adversarial loss, times the adaptive one; 0 for no discriminator."""
    adversarial_start: NonNegative = 0
    """Images seen before the game with the discriminator begins."""
    discriminator_width: Positive = 32
    """Channels of the discriminator's first map, doubled at each further one."""
    discriminator_layers: Positive = 1
    """Strided convolutions of the discriminator: 1, 2, 3 judge patches of 16, 34, 70 pixels."""
    lr: PositiveFloat = 5e-4
    """Learning rate of both Adams."""

    @property
    def factor(self) -> int:
        """Pixels of a side that one vector stands for."""
        return 2 ** (len(self.multipliers) - 1)


class FirstStage(Model):
    """Base of `kl-ae` and `vqgan`, which make the networks by `build` and yield the `updates`."""

    autocast = True

    def build(self, encoded: int, vectors: int) -> None:
        """Make encoder, decoder and discriminator; the encoder gives maps of `encoded` channels, the decoder takes those of `vectors`.

        Raises:
            UserError: the image cannot be halved so often; says which sizes can.
        """
        c = self.config
        if c.size % c.factor or c.size < 2 * c.factor:
            near = c.factor * max(2, c.size // c.factor)
            raise UserError(
                f"images of {c.size} x {c.size} pixels cannot become maps {c.factor} times smaller: use size {near} or "
                f"{near + c.factor}, or fewer --model.multipliers"
            )
        self.encoder = MapEncoder(c.channels, encoded, c.width, c.multipliers, c.blocks, attention=c.attention)
        self.decoder = MapDecoder(vectors, c.channels, c.width, c.multipliers, c.blocks, attention=c.attention)
        if c.adversarial:
            self.discriminator = PatchDiscriminator(
                c.channels, c.discriminator_width, c.discriminator_layers, size=c.size
            )

    def optimizers(self) -> dict[str, Optimizer]:
        judging = list(self.discriminator.parameters()) if self.config.adversarial else []
        judge = {id(p) for p in judging}
        making = [p for p in self.parameters() if id(p) not in judge]
        made: dict[str, Optimizer] = {"autoencoder": Adam(making, lr=self.config.lr, betas=BETAS, fused=True)}
        if judging:
            made["discriminator"] = Adam(judging, lr=self.config.lr, betas=BETAS, fused=True)
        return made

    def updates(self, x: Tensor, y: Tensor, regularizer: Tensor, log: dict[str, Tensor], seen: int) -> Iterator[Update]:
        """Both players' updates.

        Args:
            x: images (B, C, H, W) in [-1, 1].
            y: their copies, as the decoder gives them.
            regularizer: L_reg.
            log: of the regularizer's.
            seen: images seen so far.
        """
        c, y = self.config, y.float()
        error = F.l1_loss(y, x) if c.reconstruction == "l1" else F.mse_loss(y, x)
        log = {"reconstruction": error.detach(), **log}
        if c.perceptual != "none":
            distance = perceptual_loss(y, x, PERCEPTUAL[c.perceptual])
            error, log["perceptual"] = error + c.perceptual_weight * distance, distance.detach()
        playing = c.adversarial > 0 and seen >= c.adversarial_start
        loss = error + regularizer
        if playing:
            fooling = hinge_generator_loss(self.discriminator(y).float())
            weight = adaptive_weight(error, fooling, self.decoder.last)
            loss, log["adaptive_weight"] = loss + c.adversarial * weight * fooling, weight
        yield Update("autoencoder", loss, log)

        if playing:
            real, fake = self.discriminator(x).float(), self.discriminator(y.detach()).float()
            game = {"real": real.mean().detach(), "fake": fake.mean().detach()}
            yield Update("discriminator", hinge_discriminator_loss(real, fake), game)
