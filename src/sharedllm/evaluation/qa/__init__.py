"""Questions about long texts, answered by a memory and by the strongest simple alternatives, with an ordinary checkpoint."""
