"""One Lua script a transition. ``_prelude.lua`` comes before each of them."""
