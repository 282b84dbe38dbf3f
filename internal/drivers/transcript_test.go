package drivers_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

// threw is the step of a line that says that a feature failed where it should not.
const threw = "threw"

// A transcript is what one run of a driver's program saw.
type transcript struct {
	version  string              // of the driver
	features []string            // in order of appearance
	lines    map[string][]string // by feature, normalized JSON
}

// line is one line of a transcript; a program's first has Driver and Version only.
type line struct {
	Driver  string `json:"driver,omitempty"`
	Version string `json:"version,omitempty"`
	Feature string `json:"feature,omitempty"`
	Step    string `json:"step,omitempty"`
	Saw     any    `json:"saw"`
}

// parseTranscript reads a program's output. Object keys come out sorted, so the order in which a language writes them
// does not matter.
func parseTranscript(out []byte) (*transcript, error) {
	tr := &transcript{lines: map[string][]string{}}
	scan := bufio.NewScanner(bytes.NewReader(out))
	scan.Buffer(nil, 64<<20)
	for scan.Scan() {
		var l line
		dec := json.NewDecoder(bytes.NewReader(scan.Bytes()))
		dec.UseNumber()
		if err := dec.Decode(&l); err != nil {
			return nil, fmt.Errorf("transcript line %.200q: %w", scan.Text(), err)
		}
		if l.Driver != "" {
			tr.version = l.Version
			continue
		}
		text, err := json.Marshal(l.Saw)
		if err != nil {
			return nil, err
		}
		if _, known := tr.lines[l.Feature]; !known {
			tr.features = append(tr.features, l.Feature)
		}
		tr.lines[l.Feature] = append(tr.lines[l.Feature], l.Step+": "+string(text))
	}
	if tr.version == "" {
		return nil, fmt.Errorf("transcript does not say the driver's version: %.200q", out)
	}
	return tr, scan.Err()
}

// failure returns what a feature threw, or "".
func (tr *transcript) failure(feature string) string {
	for _, l := range tr.lines[feature] {
		if s, ok := strings.CutPrefix(l, threw+": "); ok {
			return s
		}
	}
	return ""
}

// difference describes where a feature of two transcripts parts, or is "".
func difference(straight, through []string) string {
	for i := range max(len(straight), len(through)) {
		want, got := "(nothing)", "(nothing)"
		if i < len(straight) {
			want = straight[i]
		}
		if i < len(through) {
			got = through[i]
		}
		if want != got {
			return fmt.Sprintf("line %d\n  straight:     %s\n  through weir: %s", i+1, clip(want), clip(got))
		}
	}
	return ""
}

func clip(s string) string {
	const most = 2000
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// A recorder writes the transcript of a program that is written in Go.
type recorder struct {
	mu  sync.Mutex // guards out: notice handlers run on the driver's goroutines
	out bytes.Buffer

	feature string
}

func (r *recorder) begin(driver, version string) { r.write(line{Driver: driver, Version: version}) }

func (r *recorder) say(step string, saw any) {
	r.write(line{Feature: r.feature, Step: step, Saw: saw})
}

func (r *recorder) write(l line) {
	text, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Write(append(text, '\n'))
}
