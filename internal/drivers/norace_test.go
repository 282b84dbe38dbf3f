//go:build !race

package drivers_test

// raceFlag builds weir the way this test was built.
var raceFlag []string
