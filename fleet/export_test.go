package fleet

// ParseURL is for the tests of package fleet_test.
var ParseURL = parseURL
