package main

import (
	"math"
	"slices"
)

// series is one figure of each side, a value per round.
type series map[string][]float64

func (s series) add(side string, value float64) { s[side] = append(s[side], value) }

func (s series) median(side string) float64 { return median(s[side]) }

// ratio is the median of the rounds' ratios of one side to another, NaN where either was not measured.
func (s series) ratio(side, to string) float64 {
	a, b := s[side], s[to]
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, a[i]/b[i])
	}
	return median(ratios)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[mid-1] + sorted[mid]) / 2
	}
	return sorted[mid]
}

// turns is the order of the sides in one round: each comes first once before any comes first twice.
func turns[T any](sides []T, round int) []T {
	if len(sides) == 0 {
		return nil
	}
	first := round % len(sides)
	return slices.Concat(sides[first:], sides[:first])
}
