"""From embedding to logits: pure margin functions under layers that own the class centres."""
