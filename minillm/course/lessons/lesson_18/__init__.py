r"""Exercises of lesson 18: what makes an autoencoder variational, and a kernel."""

from minillm.course.lessons.lesson_18.bells import KL_GAUSSIAN
from minillm.course.lessons.lesson_18.draws import REPARAMETERIZE
from minillm.course.lessons.lesson_18.nearness import RBF_KERNEL
from minillm.course.lessons.lesson_18.two_sums import NEGATIVE_ELBO

EXERCISES = (KL_GAUSSIAN, REPARAMETERIZE, NEGATIVE_ELBO, RBF_KERNEL)
