package fleet

// For the tests of package fleet_test.
var ParseURL = parseURL
