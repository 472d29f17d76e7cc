"""The one definition of unit frames and series, and their building."""
