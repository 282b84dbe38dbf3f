package storm_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/storm"
)

func TestPictureIsAnSVGThatStandsAlone(t *testing.T) {
	many := make([]float64, 5000)
	for i := range many {
		many[i] = float64(i % 100)
	}
	tests := map[string]struct {
		picture storm.Picture
		want    []string
	}{
		"values over time": {
			storm.Picture{Title: "Goodput", Step: time.Second, Curves: []storm.Curve{{Name: "weir", Values: []float64{1, 2, 3}}}},
			[]string{">Goodput<", ">weir<", ">0 s<", ">3 s<", `class="t0"`},
		},
		"values by name": {
			storm.Picture{Labels: []string{"1×", "10×"}, Curves: []storm.Curve{{Name: "weir", Values: []float64{100, 90}}}},
			[]string{">1×<", ">10×<"},
		},
		"more values than there is room for, and a gap": {
			storm.Picture{Step: time.Millisecond, Curves: []storm.Curve{{Name: "a", Values: many}, {Name: "b", Values: []float64{math.NaN(), 5}}}},
			[]string{`class="t0"`, `class="t1"`},
		},
		"a colour of its own, and a name that needs quoting": {
			storm.Picture{Step: time.Second, Curves: []storm.Curve{{Name: "a < b", Values: []float64{1}, Colour: 6}}},
			[]string{"a &lt; b", `class="t5"`},
		},
		"nothing to draw": {storm.Picture{Title: "Nothing"}, []string{">Nothing<"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := test.picture.WriteSVG(&b); err != nil {
				t.Fatal(err)
			}
			if err := wellFormed(b.Bytes()); err != nil {
				t.Errorf("not well-formed: %v\n%s", err, &b)
			}
			for _, want := range append(test.want, "prefers-color-scheme: dark") {
				if !strings.Contains(b.String(), want) {
					t.Errorf("%q is missing in\n%s", want, &b)
				}
			}
			if strings.Contains(b.String(), "NaN") || b.Len() > 20_000 {
				t.Errorf("%d bytes:\n%.3000s", b.Len(), &b)
			}
		})
	}
}

func wellFormed(text []byte) error {
	d := xml.NewDecoder(bytes.NewReader(text))
	for {
		switch token, err := d.Token(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("after %v: %w", token, err)
		}
	}
}
