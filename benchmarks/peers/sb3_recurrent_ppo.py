"""sb3-contrib's RecurrentPPO, CartPole-v1 without velocities, 8 environments × 128 steps, LSTM 64, one thread: steps/s, as JSON."""

import json
import time

import gymnasium
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env


class Positions(gymnasium.ObservationWrapper):
    """Position of the cart and angle of the pole."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2], dtype=space.dtype)

    def observation(self, observation):
        return observation[::2]


if __name__ == "__main__":
    torch.set_num_threads(1)
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0, wrapper_class=Positions)
    layers = {"lstm_hidden_size": 64}
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=128, batch_size=256, n_epochs=4, policy_kwargs=layers, seed=0, device="cpu")
    begin = time.perf_counter()
    model.learn(20_480)
    print(json.dumps({"rates": [model.num_timesteps / (time.perf_counter() - begin)]}))
