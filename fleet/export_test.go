package fleet

// These are for the tests of package fleet_test.
var (
	ParseURL   = parseURL
	CheckLease = checkLease
)

// ReadBeat is readBeat, of whose verdicts only the number counts.
func ReadBeat(reply []any) (members, verdicts int, err error) {
	members, found, err := readBeat(reply)
	return members, len(found), err
}
