package postgres

import "testing"

// A client whose pipeline never runs dry must not make the queue of answers grow.
func TestAnswersOfAnEndlessPipelineTakeNoMoreRoom(t *testing.T) {
	var q answers
	for range 100 {
		q.push(answer{kind: synced})
	}
	for range 1_000_000 {
		q.push(answer{kind: synced})
		q.pop()
	}
	if n := len(q.pending()); n != 100 {
		t.Errorf("%d are pending, want 100", n)
	}
	if got := cap(q.list); got > 1000 {
		t.Errorf("100 answers take the room of %d", got)
	}
}
