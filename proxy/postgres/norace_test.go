//go:build !race

package postgres_test

// slowdown is how many times slower the race detector makes what is measured, about.
const slowdown = 1
