SELECT random(1, 5);
SELECT 2;
