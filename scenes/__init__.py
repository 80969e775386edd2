"""What is learned from: pictures, their masks, and what is done to both before learning."""
