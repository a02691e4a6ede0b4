package cnitest

// Rules is the checklist. Sections are those of version 1.1.0 of the specification; C is its page of conventions.
func Rules() []Rule {
	return []Rule{
		{"V1", "VERSION needs no other variable, and lists the versions that are supported", "2 VERSION", version},
		{"V2", "a configuration of an unsupported version is error 1", "5 Error", unsupportedVersion},
		{"E1", "an error is JSON on standard output, with the configuration's version, a code and a message", "5 Error", errorShape},
		{"E2", "error 4 names every variable that is missing or invalid", "5 Error", variables},
		{"E3", "bad JSON is error 6, a bad configuration is error 7", "5 Error", badInput},
		{"E4", "ADD without the pod's namespace is an error and leaves nothing", "2 ADD", noNamespace},
		{"E5", "ADD into the plugin's own namespace is refused before anything is done", "2 ADD", ownNamespace},
		{"A1", "ADD makes the interface, and is an error when it exists", "2 ADD", makesInterface},
		{"A2", "the result lists interfaces with MAC, MTU and sandbox, and addresses that point to the pod's", "5 ADD", resultShape},
		{"A3", "what earlier plugins of the list have answered is passed on", "2 ADD", passesOn},
		{"A4", "an ADD that fails leaves nothing behind", "4", failsCleanly},
		{"A5", "the result is of the version that the configuration asks for", "3", resultVersion},
		{"A6", "unknown arguments are refused, unless IgnoreUnknown is set", "C", unknownArguments},
		{"A7", "the pod has what the result says: MAC, MTU, addresses and routes", "5 ADD", resultHolds},
		{"D1", "DEL succeeds when the namespace or the interface is gone, or CNI_NETNS is not given", "2 DEL", deletesWithout},
		{"D2", "DEL succeeds twice, and before any ADD", "2 DEL", deletesTwice},
		{"D3", "DEL without prevResult frees everything", "2 DEL", deletesWithoutResult},
		{"D4", "DEL frees everything after the configuration's ranges have changed", "3", deletesAfterChange},
		{"D5", "the addresses of pods that are gone are given again", "2 DEL", recycles},
		{"C1", "CHECK passes after ADD, and fails when something that ADD made is gone", "2 CHECK", checks},
		{"C2", "CHECK has no result, and asks the plugin that is delegated to", "2 CHECK", checkSilent},
		{"C3", "CHECK before version 0.4.0, STATUS and GC before 1.1.0 are error 1", "2", commandsOfVersion},
		{"S1", "STATUS succeeds when ADD can be served, and asks the plugin that is delegated to", "2 STATUS", status},
		{"G1", "GC frees what is not in cni.dev/valid-attachments, and nothing else, and so do plugins that are delegated to", "2 GC", collects},
		{"G2", "GC without valid attachments frees everything", "2 GC", collectsAll},
		{"G3", "GC beside an ADD harms neither", "3 Lifecycle", collectsBesideAdd},
		{"L1", "calls for different containers may run at once", "3 Lifecycle", concurrent},
		{"L2", "port mappings are taken from runtimeConfig, whatever the case of their names", "C", portMappings},
		{"L3", "a plugin that is delegated to gets the configuration and the environment, and is found in CNI_PATH", "4", delegates},
		{"R1", "CHECK and DEL work with the result that the runtime has kept", "3", keptResult},
		{"R2", "disableCheck is honoured: the runtime's part, with this plugin", "3", disabledCheck},
	}
}
