"""Stable-Baselines3's PPO: environment steps per second, and where it is asked for the seconds until CartPole-v1 is solved, as JSON.

    python sb3_ppo.py cartpole [SEED] [solve]       the zoo's settings, 8 environments; with `solve` it ends once that is solved
    python sb3_ppo.py cheetah NUM_ENVS              CleanRL's settings on HalfCheetah-v5

One thread: more of them are slower with networks of this size. Solved is the first rollout after which the last 20 episodes average at
least 475.
"""

import json
import sys
import time

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


class Solved(BaseCallback):
    """Ends the training where the last 20 episodes average at least 475."""

    steps: int | None = None

    def _on_rollout_end(self) -> None:
        episodes = list(self.model.ep_info_buffer or [])[-20:]
        if self.steps is None and len(episodes) == 20 and np.mean([episode["r"] for episode in episodes]) >= 475:
            self.steps = self.num_timesteps

    def _on_step(self) -> bool:
        return self.steps is None


def cartpole(seed: int = 0, solve: bool = False) -> None:
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gae_lambda=0.8,
        gamma=0.98,
        ent_coef=0.0,
        learning_rate=lambda left: left * 1e-3,
        clip_range=lambda left: left * 0.2,
        seed=seed,
        device="cpu",
    )
    solved = Solved()
    begin = time.perf_counter()
    model.learn(100_000, callback=solved if solve else None)
    print(json.dumps({"rates": [model.num_timesteps / (time.perf_counter() - begin)], "steps_to_solve": solved.steps}))


def cheetah(num_envs: int, num_steps: int = 16_384) -> None:
    env = VecNormalize(make_vec_env("HalfCheetah-v5", n_envs=num_envs, seed=0))
    model = PPO("MlpPolicy", env, n_steps=2048 // num_envs, batch_size=64, n_epochs=10, learning_rate=3e-4, seed=0, device="cpu")
    begin = time.perf_counter()
    model.learn(num_steps)
    print(json.dumps({"rates": [model.num_timesteps / (time.perf_counter() - begin)]}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "cartpole":
        cartpole(*map(int, sys.argv[2:3]), solve="solve" in sys.argv)
    else:
        cheetah(int(sys.argv[2]))
