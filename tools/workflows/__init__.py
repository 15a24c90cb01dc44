"""The shipped workflows as code: what they hold, how they are laid out, and how the built-in tiny model runs them."""
