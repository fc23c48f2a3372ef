-- What operators do on the dashboard is recorded as what they do by the API.

-- squawk-ignore ban-drop-constraint
ALTER TABLE operator_actions DROP CONSTRAINT operator_actions_via_check;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE operator_actions ADD CONSTRAINT operator_actions_via_check CHECK (
    via IN ('api', 'dashboard', 'command')
);
